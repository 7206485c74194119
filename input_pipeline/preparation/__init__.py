"""Records are written: processes, Beam, TFDS."""
