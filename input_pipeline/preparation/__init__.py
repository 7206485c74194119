"""Preparation of records: processes, Beam, TFDS."""
