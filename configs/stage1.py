"""Stage 1: a UNet with a ControlNet branch for the sketch.

python main.py --config=configs/stage1.py:quickstart
    5 minutes on 2 CPU cores; edge F1 0.92, region colour accuracy 0.30 on held-out examples.
python main.py --config=configs/stage1.py:openmoji
    15 minutes on 2 CPU cores; edge F1 0.97, region colour accuracy 0.44.
python main.py --config=configs/stage1.py:openmoji_sd
    From Stable Diffusion 1.5 at 512 px on a GPU; not yet trained to convergence.
python main.py --config=configs/stage1.py:openmoji_sdxl
    From SDXL at 1024 px on a GPU of 80 GB or several TPU chips; not yet trained to convergence.
python main.py --config=configs/stage1.py:folder
    The small model on your own images; docs/data.md lists the other datasets. Also folder_sd …
"""

import difflib

from ml_collections import ConfigDict

from configs import base, photos
from configs.stable_diffusion import STARTS, split_suffix, with_start


def get_config(dataset: str = "openmoji") -> ConfigDict:
    """The configuration for `dataset`.

    "openmoji", "quickstart" for a short run on it, or one of `photos.DATASETS`. The suffix "_sd",
    as in "openmoji_sd", starts from Stable Diffusion 1.5, and "_sdxl" from SDXL.
    """
    config = base.get_config()
    data, suffix = split_suffix(dataset)
    if data in photos.DATASETS:
        photos.of_photos(config, data)
        if suffix == "_sdxl":
            config.data.buckets = ("auto",)  # SDXL was trained on sizes of about 1024² px
    elif dataset == "quickstart":
        # Half the batch size for twice the steps: the loss is 7 % lower at equal cost.
        config.train.batch_size = 8
        config.train.steps = 800
        config.train.warmup_steps = 50
        config.validate_every = config.sample_every = 800
        config.checkpoint_every = 400
        config.response.every = 200
        config.evaluation_examples = 64
        config.sample.steps = 10
    elif data != "openmoji":
        known = ["quickstart", "openmoji", *photos.DATASETS]
        named = [*known, *(f"{name}{end}" for name in known[1:] for end in STARTS)]
        near = difflib.get_close_matches(dataset, named, 1)
        meant = f"; did you mean {near[0]}?" if near else "."
        raise ValueError(
            f"There is no configuration {dataset!r}: there are {', '.join(known)} and, except for "
            f"the first, the same with _sd and _sdxl{meant}"
        )
    return with_start(config, suffix)
