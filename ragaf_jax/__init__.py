"""RAGAF-JAX: a sketch and a prompt become an image in two stages, in JAX and Flax."""

__version__ = "0.1.0"
