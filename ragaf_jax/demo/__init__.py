"""The web page: draw a sketch, edit its regions and their prompts, watch sampling."""
