"""Checks the packages of the device benchmark without importing them."""

import importlib.util
from collections.abc import Mapping

# Imports of networks, training step and sampler, with pip's names. PyTorch and diffusers are
# optional.
PACKAGES = {
    "PIL": "pillow",
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
    """The pip names of missing packages.

    Args:
      packages: pip's names by module names.
    """
    return [pip for module, pip in packages.items() if importlib.util.find_spec(module) is None]


def complaint(absent: list[str]) -> str:
    """The error for missing packages."""
    names = " ".join(absent)
    return f"Python packages are missing: {names}; install them with `pip install {names}`."
