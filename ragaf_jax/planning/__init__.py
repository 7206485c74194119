"""Memory, FLOPs, bytes and collectives of a step, by device."""
