"""Stage 2: the same networks plus RAGAF, starting from Stage 1's parameters.

python main.py --mode=both --config=configs/stage2.py:quickstart
    Both stages, one after the other.
python main.py --config=configs/stage2.py:quickstart
    5 minutes on 2 CPU cores; edge F1 0.93, region colour accuracy 0.3 to 0.4 on held-out examples.
python main.py --config=configs/stage2.py:openmoji
    15 minutes on 2 CPU cores; edge F1 0.97, region colour accuracy 0.67.
"""

from ml_collections import ConfigDict

from configs import photos, stage1
from configs.stable_diffusion import split_suffix, with_start


def get_config(dataset: str = "openmoji") -> ConfigDict:
    """The configuration for `dataset`; see `stage1.get_config`."""
    config = stage1.get_config(dataset)
    config.stage = 2
    config.train.read_examples = 48
    config.train.learning_rate = 1e-3  # Stage 1's 2e-3 is no faster
    config.train.steps = 10000 if dataset in photos.DATASETS else 1500
    if dataset == "quickstart":
        config.train.read_examples = 24
        config.train.steps = 620
        config.validate_every = config.sample_every = 620
        config.checkpoint_every = 300
        config.response.every = 150
    return with_start(config, split_suffix(dataset)[1])
