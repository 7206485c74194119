"""Parts of `python -m ragaf_jax.sample`: tables of requests, checks, progress."""
