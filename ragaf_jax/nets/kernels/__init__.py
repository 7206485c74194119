"""Implementations of softmax attention; `nets.attention` chooses one for each device."""
