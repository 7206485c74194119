"""What a step needs on which device: memory, FLOPs, bytes, collectives."""
