"""Reading weights takes little more memory than the weights."""

import gc
import tracemalloc

import flax.serialization
import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from ragaf_jax.weights.load import load_tree
from ragaf_jax.weights.names import flax_names, unet_names
from ragaf_jax.weights.stores import open_weights

TENSORS, SHAPE = 96, (256, 512)
TENSOR_BYTES = 4 * SHAPE[0] * SHAPE[1]


def write(path):
    """A file of matrices, the i-th full of i."""
    arrays = [np.full(SHAPE, i, np.float32) for i in range(TENSORS)]
    if path.suffix == ".safetensors":
        save_file({f"layer_{i}.weight": x.T.copy() for i, x in enumerate(arrays)}, path)
    else:
        tree = {f"layer_{i}": {"kernel": x} for i, x in enumerate(arrays)}
        path.write_bytes(flax.serialization.to_bytes(tree))
    return path


def load(path, dtype):
    torch = path.suffix == ".safetensors"
    leaf = jax.ShapeDtypeStruct(SHAPE, np.dtype(dtype))
    abstract = {f"layer_{i}": {"kernel": leaf} for i in range(TENSORS)}
    naming = unet_names if torch else flax_names
    return load_tree(open_weights(path, dtype), abstract, naming, torch_layout=torch)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("suffix", [".safetensors", ".msgpack"])
def test_the_host_holds_the_weights_once_and_a_few_tensors_more(tmp_path, suffix, dtype):
    """Python's and NumPy's own count of their allocations, which no other process changes.

    Arrays on JAX's CPU device either share NumPy's memory, and are counted here, or are counted by
    `jax.live_arrays`.
    """
    path = write(tmp_path / f"weights{suffix}")
    load(path, dtype)  # what is allocated with the first use is code and caches
    gc.collect()
    before = sum(x.nbytes for x in jax.live_arrays())
    tracemalloc.start()
    try:
        tree = load(path, dtype)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    loaded = sum(x.nbytes for x in jax.live_arrays()) - before
    assert all(float(x["kernel"][0, 0]) == int(name[6:]) for name, x in tree.items())
    kept = TENSORS * TENSOR_BYTES // (1 if dtype == "float32" else 2)
    assert loaded == kept
    assert peak <= kept + 12 * TENSOR_BYTES
