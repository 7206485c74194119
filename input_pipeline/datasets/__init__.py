"""What each data set is made of; `input_pipeline.prepare` writes them."""
