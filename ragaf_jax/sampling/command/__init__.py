"""What `python -m ragaf_jax.sample` needs beside the pipeline: tables, checks, progress."""
