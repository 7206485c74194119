"""JSON files beside weights, converted to our configuration and back."""
