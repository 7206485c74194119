"""Metrics as pure functions of images, one module per metric."""
