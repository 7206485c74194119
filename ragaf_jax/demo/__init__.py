"""A page in the browser: draw, see the regions, give them words, watch the picture come."""
