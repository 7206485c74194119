"""Random weights of the metrics' networks, in the files that their authors' code writes."""

import json

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save_file
from test_tokenizer import vocabulary, write_folder

from ragaf_jax.evaluation.networks.clip import Clip, ClipConfig, ClipVisionConfig
from ragaf_jax.evaluation.networks.inception import Inception
from ragaf_jax.evaluation.networks.lpips import BACKBONES, Lpips
from ragaf_jax.evaluation.networks.weights import _head_names, _names
from ragaf_jax.nets.text.clip import ClipTextConfig
from ragaf_jax.weights.names import to_torch

SIDE, WORDS = 24, len(vocabulary()[0])
CLIP = ClipConfig(
    ClipTextConfig(WORDS, 16, 24, 2, 2, max_position_embeddings=20),
    ClipVisionConfig(20, 28, 2, 4, SIDE, 8),
    projection_dim=12,
    eos_token_id=WORDS - 1,
)


def shapes(module, *inputs):
    """The shapes of a network's parameters; `inputs` are shapes, of int32 where of two axes."""
    dtypes = (np.int32 if len(shape) == 2 else np.float32 for shape in inputs)
    structs = [jax.ShapeDtypeStruct(*x) for x in zip(inputs, dtypes, strict=True)]
    return jax.eval_shape(module.init, jax.random.key(0), *structs)["params"]


def drawn(rng, path, shape):
    """A parameter that keeps activations in range, and is neither zero nor without effect."""
    leaf = path.rpartition("/")[2]
    normal = rng.standard_normal(shape)
    value = {
        "kernel": lambda: normal * (2 / max(1, np.prod(shape[:-1]))) ** 0.5,
        "scale": lambda: rng.uniform(0.7, 1.3, shape),
        "running_var": lambda: rng.uniform(0.7, 1.5, shape),
    }.get(leaf, lambda: 0.3 * normal)()
    return value.astype(np.float32)


def random_params(rng, abstract):
    flat = flatten_dict(abstract, sep="/")
    return unflatten_dict({k: drawn(rng, k, v.shape) for k, v in flat.items()}, sep="/")


def inception_params(rng):
    return random_params(rng, shapes(Inception(), (1, 299, 299, 3)))


def lpips_params(rng, net):
    page = (1, *(BACKBONES[net].least,) * 2, 3)
    params = random_params(rng, shapes(Lpips(net), page, page))
    return jax.tree.map(np.abs, {k: v for k, v in params.items() if k != "features"}) | {
        "features": params["features"]
    }


def clip_params(rng, config=CLIP):
    side = config.vision.image_size
    return random_params(rng, shapes(Clip(config), (1, side, side, 3), (1, 1)))


def tensors(params):
    """A tree of parameters as a state dict, with everything that is not read from it."""
    flat = flatten_dict(params, sep="/").items()
    stored = {_names(k)[0].name: np.ascontiguousarray(to_torch(k, v)) for k, v in flat}
    counts = [name.replace("running_mean", "num_batches_tracked") for name in stored]
    return stored | {name: np.array(7) for name in counts if "num_batches" in name}


def heads(params):
    """Those of an LPIPS in the form of the package's file."""
    flat = flatten_dict(params, sep="/").items()
    return {_head_names(k)[0].name: to_torch(k, v) for k, v in flat if "features" not in k}


def clip_json(config=CLIP):
    """The config.json of transformers' CLIPModel, without its many defaults."""
    layers = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    towers = {
        "text_config": (config.text, (*layers, "vocab_size", "max_position_embeddings")),
        "vision_config": (config.vision, (*layers, "image_size", "patch_size")),
    }
    written = {k: {f: getattr(x, f) for f in fields} for k, (x, fields) in towers.items()}
    written["text_config"]["eos_token_id"] = config.eos_token_id
    return {"model_type": "clip", "projection_dim": config.projection_dim, **written}


def write_clip(folder, params, config=CLIP):
    """A folder as CLIPModel and CLIPProcessor are saved."""
    write_folder(folder)
    stored = tensors(params) | {"logit_scale": np.array(4.6, np.float32)}
    save_file(
        stored
        | {f"{x}_model.embeddings.position_ids": np.arange(5)[None] for x in ("text", "vision")},
        folder / "model.safetensors",
    )
    (folder / "config.json").write_text(json.dumps(clip_json(config)))
    return folder
