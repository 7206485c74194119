"""Sketches extracted from images, and their augmentation."""
