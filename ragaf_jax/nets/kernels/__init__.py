"""How attention and convolutions are computed where XLA's own way is slow, by device."""
