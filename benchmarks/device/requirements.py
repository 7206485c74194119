"""Packages that the device benchmark needs; this module itself needs none of them."""

import importlib.util
from collections.abc import Mapping

# What networks, training step and sampler import, with pip's names. TFDS and Grain are not needed;
# PyTorch and diffusers only for the comparison with them.
PACKAGES = {
    "absl": "absl-py",
    "clu": "clu",
    "cv2": "opencv-python-headless",
    "flax": "flax",
    "huggingface_hub": "huggingface-hub",
    "jax": "jax",
    "jaxtyping": "jaxtyping",
    "jraph": "jraph",
    "ml_collections": "ml-collections",
    "msgpack": "msgpack",
    "numpy": "numpy",
    "optax": "optax",
    "orbax": "orbax-checkpoint",
    "safetensors": "safetensors",
    "tensorstore": "tensorstore",
    "tokenizers": "tokenizers",
    "tqdm": "tqdm",
}


def missing(packages: Mapping[str, str]) -> list[str]:
    """The pip names of those packages that cannot be imported here.

    Args:
      packages: pip's names by those of the modules.
    """
    return [pip for module, pip in packages.items() if importlib.util.find_spec(module) is None]


def complaint(absent: list[str]) -> str:
    """One sentence for the user who lacks these packages."""
    names = " ".join(absent)
    return f"Python packages are missing: {names}; install them with `pip install {names}`."
