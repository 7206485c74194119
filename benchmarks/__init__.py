"""How well and how fast the parts of RAGAF-JAX do, each measured by one command."""
