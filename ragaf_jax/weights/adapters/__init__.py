"""Adapters of Stable Diffusion in the files of other programs: LoRA, LyCORIS's kinds, DoRA."""
