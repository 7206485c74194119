"""Parameter trees without parameters: what the full-size networks would allocate."""

import hashlib
import math

import jax


def parameter_shapes(module, *inputs):
    """{path: shape} of a network's parameters; `inputs` are (shape, dtype) pairs."""
    structs = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in inputs]
    params = jax.eval_shape(module.init, jax.random.key(0), *structs)["params"]
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {"/".join(key.key for key in path): leaf.shape for path, leaf in leaves}


def count(shapes):
    """Number of parameters."""
    return sum(math.prod(shape) for shape in shapes.values())


def digest(shapes):
    """A fingerprint of all names and shapes."""
    lines = "\n".join(f"{path} {shape}" for path, shape in sorted(shapes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]
