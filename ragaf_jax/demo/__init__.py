"""A page in the browser: sketch, see its regions, prompt and merge them, watch the sampling."""
