"""The differences of photograph data sets, for both stages."""

import ml_collections

DATASETS = {
    "sketchy": "sketchy",
    "coco": "coco",
    "both": "sketchy:0.5,coco:0.5",
    "folder": "folder",
}


def of_photos(config: ml_collections.ConfigDict, dataset: str) -> ml_collections.ConfigDict:
    """`config` on one of `DATASETS`, for the small pixel model at 64 px.

    python -m input_pipeline.prepare --dataset=sketchy --root=<its folder>
    It trains from nothing, on one GPU or, to see that all works, on a CPU; begin from Stable
    Diffusion (`sketchy_sd`, …) for pictures to look at.
    """
    config.data.dataset = DATASETS[dataset]
    config.data.max_edges = 320  # what is drawn from photographs has more regions that touch
    # Sketches made from photographs are cleaner than people's, and always of one kind.
    config.data.augment.update(stroke_width=0.5, gaps=0.3, wobble=0.3, erasure=0.2, noise=0.2)
    config.train.steps = 20000
    config.validate_every = config.sample_every = config.checkpoint_every = 1000
    return config
