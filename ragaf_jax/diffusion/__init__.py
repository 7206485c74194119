"""Diffusion as pure functions of (denoise, x, …), independent of the networks."""
