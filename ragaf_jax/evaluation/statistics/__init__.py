"""Intervals, comparisons and summaries of scores."""
