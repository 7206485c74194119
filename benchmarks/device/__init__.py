"""Measurements on one accelerator: training steps, sampling, attention, and PyTorch."""
