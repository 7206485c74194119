"""The weights of networks in files, not yet read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import jax
from flax.traverse_util import flatten_dict

from ragaf_jax.nets.text.clip import ClipTextConfig
from ragaf_jax.nets.text.sdxl import SdxlTextConfig
from ragaf_jax.nets.unet import UNetConfig
from ragaf_jax.nets.vae import VaeConfig
from ragaf_jax.paths import sha256_of
from ragaf_jax.weights.configs.schedulers import NOT_DISTILLED, Distilled
from ragaf_jax.weights.load import Tree, load_tree
from ragaf_jax.weights.names import Naming, flax_names
from ragaf_jax.weights.stores import InMemory, Store

C = TypeVar("C")


@dataclass(frozen=True)
class Network(Generic[C]):
    """One network's weights, not yet read.

    Attributes:
      config: its sizes.
      open: dtype → the file.
      naming: the file's name of each parameter.
      surplus: patterns of tensors to ignore.
      files: configuration, if there is one, and weights; empty for a part of a checkpoint.
    """

    config: C
    open: Callable[[jax.typing.DTypeLike | None], Store]
    naming: Naming
    surplus: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    def load(self, abstract: Tree) -> Tree:
        """The parameters with the dtypes and shardings of `abstract`; see `load_tree`."""
        dtypes = {leaf.dtype for leaf in flatten_dict(abstract).values()}
        store = self.open(dtypes.pop() if len(dtypes) == 1 else None)
        if isinstance(store, InMemory):  # a Flax file, with the same tree
            return load_tree(store, abstract, flax_names, torch_layout=False, surplus=self.surplus)
        return load_tree(store, abstract, self.naming, surplus=self.surplus)

    @property
    def sha256(self) -> str:
        """The SHA-256 of `files`, one after the other, in hexadecimal."""
        return sha256_of(*self.files)


@dataclass(frozen=True)
class Joint(Generic[C]):
    """A network of several parts with weights of their own, such as SDXL's text encoders.

    Attributes:
      config: its sizes.
      parts: by their names in its parameter tree.
    """

    config: C
    parts: Mapping[str, Network]

    def load(self, abstract: Tree) -> Tree:
        """As `Network.load`."""
        return {name: part.load(abstract[name]) for name, part in self.parts.items()}


@dataclass(frozen=True)
class Pretrained:
    """A whole Stable Diffusion.

    Attributes:
      source: its path.
      unet, vae, text_encoder: its networks; SDXL's text encoders are one network of two parts.
      diffusion: the fields of `config.diffusion` that it determines.
      tokenizer: the folder of its tokenizer, for SDXL the first one; single files and some folders
        have none.
      padding: without that folder, the padding token; None: the end of the text.
      notice: a sentence on how the UNet's prediction type was guessed, or "".
      distilled: its sampling in few steps, as with SD-Turbo or LCM.
      notices: sentences for the user about its settings.
      tokenizer_2: the folder of SDXL's second tokenizer, or None.
    """

    source: str
    unet: Network[UNetConfig]
    vae: Network[VaeConfig]
    text_encoder: Network[ClipTextConfig] | Joint[SdxlTextConfig]
    diffusion: dict[str, Any]
    tokenizer: Path | None
    padding: str | None = None
    notice: str = ""
    distilled: Distilled = NOT_DISTILLED
    notices: tuple[str, ...] = ()
    tokenizer_2: Path | None = None
