"""Inspection of a prepared dataset: statistics and a page."""
