"""ControlNets beside the sketch branch, and a VAE in place of a stage's own."""
