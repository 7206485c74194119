"""The web page: draw a sketch, see and edit its regions, prompt them, watch sampling."""
