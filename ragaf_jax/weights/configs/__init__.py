"""The JSON files beside weights: what they describe, as our configuration, and back."""
