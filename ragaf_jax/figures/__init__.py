"""Pictures and pages for people: lettering, sheets, heat maps, HTML."""
