"""The pages and pictures of an evaluation."""
