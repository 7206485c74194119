"""Orbax checkpoints: saving, restoring, retention, verification."""
