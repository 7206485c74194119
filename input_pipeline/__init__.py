"""From sketches to batches: preparing data sets on disk and reading them."""
