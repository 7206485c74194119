"""The data sets, which `input_pipeline.prepare` writes."""
