"""What training minimises and validation measures."""
