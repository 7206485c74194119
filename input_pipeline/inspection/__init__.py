"""Inspection of a prepared data set: statistics and a page."""
