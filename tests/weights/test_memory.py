"""Reading weights takes little more memory than the weights."""

import subprocess
import sys
from pathlib import Path

import flax.serialization
import numpy as np
import pytest
from safetensors.numpy import save_file

TENSORS, SHAPE = 48, (1024, 1024)  # 4 MiB each, 192 MiB in all

# Prints how far the resident memory rose above what it was before, at its peak.
SCRIPT = """
import sys
from pathlib import Path
import jax, numpy as np
from ragaf_jax.weights.load import load_tree
from ragaf_jax.weights.names import flax_names, unet_names
from ragaf_jax.weights.stores import open_weights

dtype = np.dtype(sys.argv[1])
shape = jax.ShapeDtypeStruct((1024, 1024), dtype)

def load(path, tensors):
    torch = path.suffix == ".safetensors"
    abstract = {f"layer_{i}": {"kernel": shape} for i in range(tensors)}
    naming = unet_names if torch else flax_names
    return load_tree(open_weights(path, dtype), abstract, naming, torch_layout=torch)

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

load(Path(sys.argv[2]), 2)  # what is loaded with the first use is code
before = peak()
tree = jax.block_until_ready(load(Path(sys.argv[3]), int(sys.argv[4])))
print(peak() - before)
assert all(float(x["kernel"][0, 0]) == i for i, x in enumerate(tree.values()))
"""


def write(path, tensors):
    """A file of `tensors` matrices, the i-th full of i."""
    arrays = [np.full(SHAPE, i, np.float32) for i in range(tensors)]
    if path.suffix == ".safetensors":
        save_file({f"layer_{i}.weight": x for i, x in enumerate(arrays)}, path)
    else:
        tree = {f"layer_{i}": {"kernel": x} for i, x in enumerate(arrays)}
        path.write_bytes(flax.serialization.to_bytes(tree))
    return path


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's own account")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("suffix", [".safetensors", ".msgpack"])
def test_peak(tmp_path, suffix, dtype):
    files = [write(tmp_path / f"{n}{suffix}", n) for n in (2, TENSORS)]
    command = [sys.executable, "-c", SCRIPT, dtype, *map(str, files), str(TENSORS)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    one = 4 * SHAPE[0] * SHAPE[1]
    kept = TENSORS * one // (1 if dtype == "float32" else 2)
    # Were it less, the peak before would have been that of something else.
    assert 0.9 * kept <= int(result.stdout) <= 1.2 * kept + one
