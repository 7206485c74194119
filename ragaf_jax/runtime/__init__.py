"""Devices, meshes, processes and memory of a command, and targets of compilation."""
