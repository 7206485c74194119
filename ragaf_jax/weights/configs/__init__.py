"""Conversion between the JSON files of weights and this package's configuration."""
