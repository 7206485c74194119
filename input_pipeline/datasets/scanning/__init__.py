"""Listing of files that data sets share: items, sources, splits, tables."""
