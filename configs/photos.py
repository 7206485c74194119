"""The differences of photograph datasets, for both stages."""

from ml_collections import ConfigDict

from input_pipeline.datasets import registry

# Those with a root, and their mixture.
DATASETS = (*(name for name, entry in registry.DATASETS.items() if entry.scan), "both")


def of_photos(config: ConfigDict, dataset: str) -> ConfigDict:
    """`config` on one of `DATASETS`, for the small pixel model at 64 px.

    python -m input_pipeline.prepare --dataset=sketchy --root=<its folder>
    It trains from random parameters, on one GPU or, as a trial, on a CPU. Start from Stable
    Diffusion (`sketchy_sd`, …) for usable images.
    """
    names = registry.names_of(dataset)
    config.data.dataset = ",".join(f"{name}:0.5" for name in names) if names[1:] else dataset
    config.data.max_edges = max(registry.find(name).max_edges for name in names)
    # Sketches made from photographs are cleaner than people's, and always of one kind.
    config.data.augment.update(stroke_width=0.5, gaps=0.3, wobble=0.3, erasure=0.2, noise=0.2)
    config.train.steps = 20000
    config.validate_every = config.sample_every = config.checkpoint_every = 1000
    return config
