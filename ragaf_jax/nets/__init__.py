"""The networks: pure flax.linen modules with diffusers' and transformers' parameter trees."""
