"""Diffusion as pure functions of `(denoise, x, …)`; nothing here knows a network."""
