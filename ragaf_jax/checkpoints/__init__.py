"""Checkpoints by Orbax: saved, restored, kept, verified."""
