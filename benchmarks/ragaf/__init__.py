"""The proof: what RAGAF adds to the same training without it, and what each of its parts adds."""
