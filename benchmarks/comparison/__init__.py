"""Steps and sampling of this code and of PyTorch, side by side in processes of their own."""
