"""Scanning of folders: items, files, annotations, splits, sources."""
