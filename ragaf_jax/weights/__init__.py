"""Stable Diffusion's weights, in and out: diffusers, Flax, CompVis, PEFT and kohya files."""
