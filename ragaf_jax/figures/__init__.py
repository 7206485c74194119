"""Figures and HTML pages: lettering, contact sheets, heat maps."""
