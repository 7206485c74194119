"""Sketches from images, and what training varies in them."""
