"""How near a sample is to what was asked: its lines, its colours, and how sure we are."""
