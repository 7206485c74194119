"""Text encoders: CLIP, the two of Stable Diffusion XL, and windows of long texts."""
