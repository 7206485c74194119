"""One stage's training: state, step, loop, optimiser, checkpoints, what is logged."""
