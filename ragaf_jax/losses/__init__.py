"""The objective that training minimises and validation measures."""
