"""Writing of records: processes, Beam, TFDS."""
