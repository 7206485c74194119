"""Implementations of softmax attention, of which `nets.attention` chooses one for each backend."""
