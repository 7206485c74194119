"""Stage 1: a UNet with a ControlNet branch that reads the sketch.

python main.py --config=configs/stage1.py:quickstart --workdir=runs/quickstart/stage1
python main.py --config=configs/stage1.py:openmoji --workdir=runs/om/stage1
"""

import ml_collections

from configs import base


def get_config(dataset: str = "openmoji") -> ml_collections.ConfigDict:
    """The configuration for `dataset`: "openmoji", or "quickstart" for a short run on it."""
    config = base.get_config()
    if dataset == "quickstart":
        config.train.steps = 420
        config.train.warmup_steps = 30
        config.log_every = 10
        config.validate_every = config.sample_every = 420
        config.checkpoint_every = 210
        config.evaluation_examples = 64
        config.sample.steps = 10
    elif dataset != "openmoji":
        raise ValueError(f"configs/stage1.py knows openmoji and quickstart, not {dataset!r}")
    return config
