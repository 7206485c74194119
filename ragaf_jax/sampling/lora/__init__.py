"""LoRA files of a sampling call: their strengths, loading, and merging into the parameters."""
