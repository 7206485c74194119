"""Devices, meshes, processes and memory of a command, and devices it only compiles for."""
