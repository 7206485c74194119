"""The initial parameters: from Stage 1, Stable Diffusion's weights, or random."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray
from ml_collections import ConfigDict

from ragaf_jax.errors import UserError
from ragaf_jax.nets import lora
from ragaf_jax.nets.model import Model, Params, traced_init
from ragaf_jax.partition import merge, partition
from ragaf_jax.runtime.sharding import with_shardings
from ragaf_jax.weights.adapters.opening import SETTINGS_FILE, TENSOR_FILES
from ragaf_jax.weights.load import Tree, placed
from ragaf_jax.weights.locate import locate
from ragaf_jax.weights.lora_files import load_lora
from ragaf_jax.weights.pretrained import open_control, open_pretrained

# The modules that a ControlNet copies from its UNet (Zhang et al. 2023, §3.2).
_ENCODER = ("conv_in", "time_embedding", "add_embedding", "down_blocks_", "mid_block")


def initial_params(
    config: ConfigDict, model: Model, stage1: Params | None, mesh: Mesh | None = None
) -> Params:
    """All parameters of the model, the frozen ones in the compute dtype.

    They come from Stage 1 if given, else from `config.init`; missing ones are initialised randomly.
    Each is placed on `mesh` directly; without a mesh, on the first device.

    Raises:
      UserError: weights that do not fit the model.
    """
    rng = jax.random.key(config.seed)
    shapes = stored_shapes(config, model)
    if mesh is not None:
        shapes = with_shardings(mesh, shapes)
    abstract = flatten_dict(shapes, sep="/")
    if stage1 is not None:
        known = _from_stage1(config, abstract, stage1)
    elif config.init.checkpoint:
        known = flatten_dict(pretrained_params(config, model, shapes), sep="/")
    else:
        known = {}
    missing = [path for path in abstract if path not in known]
    if any(path.startswith("autoencoder/") for path in missing):
        raise UserError(
            'config.model.autoencoder is "kl" and there are no weights for it; give '
            "--config.init.checkpoint=<a Stable Diffusion>, which then defines the model."
        )
    trainable, _ = partition(abstract, config.train.trainable, config.train.frozen)
    fresh_adapters = [path for path in missing if path.startswith("lora/")]
    if fresh_adapters and not any(
        path.startswith("lora/") for path in flatten_dict(trainable, sep="/")
    ):
        raise UserError(
            f"config.model.lora.patterns {tuple(config.model.lora.patterns)} adds adapters that "
            f"config.train.trainable {tuple(config.train.trainable)} does not train; add 'lora/.*'."
        )

    def fresh(rng: PRNGKeyArray) -> Tree:
        # XLA removes the rest: compiling a whole initialisation takes many seconds.
        leaves = flatten_dict(traced_init(model, rng), sep="/")
        return {path: leaves[path].astype(abstract[path].dtype) for path in missing}

    if missing:
        shardings = {path: abstract[path].sharding for path in missing}
        known |= jax.jit(fresh, out_shardings=shardings)(rng)
    return unflatten_dict(known, sep="/")


def stored_shapes(config: ConfigDict, model: Model) -> Params:
    """The shapes of all parameters, in the dtypes in which training stores them."""
    shapes = model.shapes()
    trainable, frozen = partition(shapes, config.train.trainable, config.train.frozen)
    return merge(trainable, jax.eval_shape(model.in_own_dtypes, frozen))


def pretrained_params(config: ConfigDict, model: Model, abstract: Params) -> Tree:
    """The model's parameters from the weights of `config.init`, with the types of `abstract`.

    Raises:
      UserError: the weights are missing, damaged, or of another network.
    """
    init = config.init
    pretrained = open_pretrained(init.checkpoint, init.variant, init.ema, init.vae)
    params = {
        "unet": pretrained.unet.load(abstract["unet"]),
        "text_encoder": pretrained.text_encoder.load(abstract["text_encoder"]),
        "autoencoder": pretrained.vae.load(abstract["autoencoder"]),
    }
    if init.control == "unet":
        encoder = {k: v for k, v in abstract["control"].items() if k.startswith(_ENCODER)}
        whole = dataclasses.replace(pretrained.unet, surplus=(".*",))
        params["control"] = whole.load(encoder)
    else:
        params["control"] = open_control(init.control, init.variant).load(abstract["control"])
    if init.lora:
        files = *TENSOR_FILES, SETTINGS_FILE
        where = locate(init.lora, lambda names: [name for name in names if name in files])
        adapters = load_lora(where, params)
        if model.lora is None:
            if init.control == "unet" and "unet" in adapters:  # control copies the merged UNet
                encoder = {k: v for k, v in adapters["unet"].items() if k.startswith(_ENCODER)}
                params["control"] = dict(lora.merged(params["control"], encoder))
            for network, tree in adapters.items():
                params[network] = dict(lora.merged(params[network], tree))
        else:
            _check_adapters(init.lora, adapters, abstract["lora"])
            params["lora"] = jax.tree.map(jnp.asarray, adapters)
    return params


def _check_adapters(where: str, found: Tree, expected: Tree) -> None:
    there, here = (
        {path: jnp.shape(leaf) for path, leaf in flatten_dict(tree, sep="/").items()}
        for tree in (found, expected)
    )
    for path in sorted(there | here):
        if there.get(path) != here.get(path):
            raise UserError(
                f"{path} is {there.get(path, 'missing')} in the LoRA {where} and "
                f"{here.get(path, 'missing')} by config.model.lora; choose the LoRA's modules and "
                "rank there, or no patterns to merge it."
            )


def _from_stage1(config: ConfigDict, abstract: Tree, stage1: Params) -> Tree:
    """Stage 1's parameters in this run's dtypes; its frozen ones may be stored in bfloat16."""
    known = flatten_dict(stage1, sep="/")
    networks = {path.split("/")[0] for path in known}
    here = {path: leaf.shape for path, leaf in abstract.items() if path.split("/")[0] in networks}
    there = {path: jnp.shape(leaf) for path, leaf in known.items()}
    if here != there:
        path = min(path for path in here | there if here.get(path) != there.get(path))
        raise UserError(
            f"The {path.split('/')[0]} of Stage 1 ({Path(config.stage1)}) has other sizes than "
            f"config.model ({path}: {there.get(path, 'missing')} there and "
            f"{here.get(path, 'missing')} here); use the sizes of Stage 1's config.json."
        )
    return {
        path: placed(np.asarray(leaf, abstract[path].dtype), abstract[path].sharding)
        for path, leaf in known.items()
    }
