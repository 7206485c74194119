"""Measures samples against their sketches and captions, with confidence intervals."""
