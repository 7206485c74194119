"""Prompts: their syntax, textual inversions, and windows of tokens."""
