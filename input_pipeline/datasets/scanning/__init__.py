"""What datasets share when they list files: items, sources, splits, tables."""
