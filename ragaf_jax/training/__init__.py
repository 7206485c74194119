"""Training of one stage: state, step, loop, optimiser, initial parameters."""
