"""From sketches to batches: preparing datasets on disk and reading them."""
