"""One module a metric: pure functions of images."""
