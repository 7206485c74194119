"""The datasets and their builders."""
