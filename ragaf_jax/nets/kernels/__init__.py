"""Attention and convolutions for devices on which XLA's own implementation is slow."""
