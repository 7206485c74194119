"""Loads weights of the metrics' networks from local files, without downloads.

A path may also be "owner/repository[/file]" in the Hugging Face cache.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ragaf_jax.errors import UserError
from ragaf_jax.evaluation.networks.clip import Clip, ClipModel
from ragaf_jax.evaluation.networks.clip_files import check_preprocessor, clip_config
from ragaf_jax.evaluation.networks.inception import SIDE, Inception
from ragaf_jax.evaluation.networks.lpips import BACKBONES, Lpips
from ragaf_jax.tokenizer import Tokenizer
from ragaf_jax.weights.configs.fields import read_json
from ragaf_jax.weights.load import Tree, load_tree
from ragaf_jax.weights.locate import choose_weights, files_below, locate_here
from ragaf_jax.weights.names import Place, torch_name
from ragaf_jax.weights.stores import PICKLES, InMemory, Safetensors, open_weights, under


class Official(NamedTuple):
    """A file that its authors publish as a pickle."""

    network: str
    url: str


_FIDELITY = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0"
_TORCHVISION = "https://download.pytorch.org/models"
INCEPTION = Official(
    "the Inception network", f"{_FIDELITY}/weights-inception-2015-12-05-6726825d.pth"
)
LPIPS = {
    "alex": Official("torchvision's AlexNet", f"{_TORCHVISION}/alexnet-owt-7be5be79.pth"),
    "vgg": Official("torchvision's VGG16", f"{_TORCHVISION}/vgg16-397923af.pth"),
}

# LPIPS's linear heads, 11 KB, from tests/golden/make_lpips_heads.py; the licence is beside it.
HEADS = Path(__file__).with_name("lpips_heads.safetensors")

# Unused arrays of the files: batch counts, ImageNet's classifier, buffers, CLIP's temperature.
_INCEPTION_SURPLUS = (r".*\.bn\.num_batches_tracked",)
_LPIPS_SURPLUS = (r"classifier\.\d\.(weight|bias)",)
_CLIP_SURPLUS = (r"(text|vision)_model\.embeddings\.position_ids", "logit_scale")
# Leaves with the same name in PyTorch.
_SAME_NAMES = ("running_mean", "running_var", "class_embedding")


def load_inception(where: str) -> Tree:
    """The parameters of `inception` from a safetensors file with pytorch-fid's names.

    Raises:
      UserError: it is missing, a pickle, damaged, or of another network.
    """
    with _for_metric("FID, KID and the Inception score"):
        store = Safetensors.open(_published(where, INCEPTION))
        return load_tree(
            store, _abstract(Inception(), _page(SIDE)), _names, surplus=_INCEPTION_SURPLUS
        )


def load_lpips(where: str, net: str) -> Tree:
    """The parameters of `lpips` with the backbone `net`, a key of `BACKBONES`.

    where: a safetensors file of the backbone with torchvision's names. This package contains the
      linear heads.

    Raises:
      UserError: it is missing, a pickle, damaged, or of another network.
    """
    page = _page(BACKBONES[net].least)
    with _for_metric(f"LPIPS with {net!r}"):
        backbone = Safetensors.open(_published(where, LPIPS[net]))
        heads = _abstract(Lpips(net), page, page)
        features = {"features": heads.pop("features")}
        return {
            **load_tree(backbone, features, _names, surplus=_LPIPS_SURPLUS),
            **load_tree(under(Safetensors.open(HEADS), f"{net}."), heads, _head_names),
        }


def load_clip(where: str) -> ClipModel:
    """A CLIP from a folder with saved `CLIPModel` and `CLIPProcessor` of transformers.

    Raises:
      UserError: it is missing, incomplete, damaged, or has another preprocessing.
    """
    with _for_metric("The CLIP score"):
        folder = locate_here(where)
        if folder is None or not folder.is_dir():
            raise UserError(
                f"there is no folder {where!r}, nor such a repository in the Hugging Face cache; "
                "download one, for instance by `hf download openai/clip-vit-large-patch14`, and "
                "give its path or name."
            )
        config = clip_config(read_json(folder / "config.json"), str(folder / "config.json"))
        side = config.vision.image_size
        check_preprocessor(folder, side)
        file = choose_weights(files_below(folder), "", "model", "", str(folder))[0]
        store = open_weights(folder / file, jnp.float32)
        text = jax.ShapeDtypeStruct((1, 1), jnp.int32)
        abstract = _abstract(Clip(config), _page(side), text)
        flax = isinstance(store, InMemory)  # a Flax file with the same tree
        naming = (lambda path: (Place(path),)) if flax else _names
        params = load_tree(store, abstract, naming, torch_layout=not flax, surplus=_CLIP_SURPLUS)
        tokenizer = Tokenizer.from_pretrained(folder)
        if tokenizer.vocab_size > config.text.vocab_size:
            raise UserError(
                f"the tokenizer in {folder} has {tokenizer.vocab_size} tokens, expected at most "
                f"config.json's vocab_size {config.text.vocab_size}; download both again."
            )
        return ClipModel(config, params, tokenizer)


def _published(where: str, official: Official) -> Path:
    """The path of the safetensors file `where`; UserError with instructions if it is unusable."""
    path = locate_here(where)
    name = official.url.rpartition("/")[2]
    if path is None or path.is_dir():
        what = f"{where} is a folder" if path else f"there is no file {where!r}"
        raise UserError(
            f"{what}, expected a safetensors file of {official.network}; download "
            f"{official.url} and convert it once with PyTorch: {_conversion(name)}"
        )
    if path.suffix in PICKLES:
        raise UserError(
            f"{path} is a pickle, which can run any code when loaded, expected safetensors; "
            f"if you trust it, convert it once with PyTorch: {_conversion(str(path))}"
        )
    return path


def _conversion(pickle: str) -> str:
    """A shell command that converts a state dict's pickle to safetensors."""
    converted = str(Path(pickle).with_suffix(".safetensors"))
    return (
        'python -c "import torch; from safetensors.torch import save_file; save_file({k: '
        f"v.contiguous() for k, v in torch.load({pickle!r}, 'cpu', weights_only=True).items()}}"
        f', {converted!r})"'
    )


@contextmanager
def _for_metric(metric: str) -> Iterator[None]:
    """Prefixes a UserError with the metric that cannot be computed."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{metric} cannot be computed: {error}") from None


def _page(side: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)


def _abstract(module: nn.Module, *inputs: jax.ShapeDtypeStruct) -> dict[str, Any]:
    return jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]


def _names(path: str) -> tuple[Place, ...]:
    same = path.rpartition("/")[2] in _SAME_NAMES
    return (Place(path.replace("/", ".") if same else torch_name(path)),)


def _head_names(path: str) -> tuple[Place, ...]:
    """`lin0/kernel` → `lin0.model.1.weight`; index 0 was a dropout layer."""
    return (Place(f"{path.partition('/')[0]}.model.1.weight"),)
