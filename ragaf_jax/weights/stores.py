"""Weight files as mappings from names to tensors, read one tensor at a time."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import flax.serialization
import jax
import msgpack
import numpy as np
from flax.traverse_util import flatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ragaf_jax.errors import UserError

Shapes = Mapping[str, tuple[int, ...]]

# Suffixes of PyTorch's pickles.
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
# Suffixes of other published weights.
_FORMATS = {
    ".gguf": "GGUF, whose weights are quantised",
    ".onnx": "an ONNX graph",
    ".xml": "an OpenVINO graph",
    ".h5": "Keras' or TensorFlow's HDF5",
    ".npz": "NumPy's archive",
}
# First bytes of files with a wrong suffix.
_SIGNATURES = {
    b"version https://git-lfs": "a Git LFS pointer and not the weights; run git lfs pull",
    b"GGUF": "GGUF, whose weights are quantised; use another variant of the weights",
    b"PK\x03\x04": "a pickle of PyTorch under another name; use the .safetensors",
    b"\x80\x02\x8a\nl\xfc": "a pickle of PyTorch under another name; use the .safetensors",
    b"<!": "an HTML page and not the weights; download the file itself",
    b"<html": "an HTML page and not the weights; download the file itself",
}


@runtime_checkable
class Store(Protocol):
    """Tensors by name.

    Attributes:
      source: their file or folder, for messages.
      shapes: of every tensor, as stored.
    """

    @property
    def source(self) -> str: ...

    @property
    def shapes(self) -> Shapes: ...

    def read(self, name: str) -> np.ndarray:
        """One tensor; call it once per tensor."""
        ...


class Safetensors(NamedTuple):
    """One or more `.safetensors` files that together hold the tensors of a network.

    Attributes:
      source: the file, or the folder of the shards.
      files: the file of each tensor.
      shapes: of every tensor.
      metadata: of the first file, text by name.
    """

    source: str
    files: Mapping[str, Path]
    shapes: Shapes
    metadata: Mapping[str, str]

    @classmethod
    def open(cls, *paths: Path) -> "Safetensors":
        """Reads only the headers.

        Raises:
          UserError: a file is missing, truncated or no safetensors file, or two hold the same name.
        """
        files: dict[str, Path] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        metadata: Mapping[str, str] = {}
        for path in paths:
            with _opened(path) as file:
                metadata = metadata or file.metadata() or {}
                for name in file.keys():  # noqa: SIM118 (it is no dict)
                    if name in files:
                        raise UserError(
                            f"The tensor {name} is in {files[name].name} and in {path.name}, "
                            "expected once; download the weights again."
                        )
                    files[name] = path
                    shapes[name] = tuple(file.get_slice(name).get_shape())
        source = str(paths[0] if len(paths) == 1 else paths[0].parent)
        return cls(source, files, shapes, metadata)

    def read(self, name: str) -> np.ndarray:
        """One tensor. The file is mapped only meanwhile, because its pages count as memory."""
        with _opened(self.files[name]) as file:
            try:
                return file.get_tensor(name)
            except (AttributeError, TypeError):
                raise UserError(
                    f"The tensor {name} in {self.files[name]} is {file.get_slice(name).get_dtype()}"
                    ", expected floats of 16 or 32 bits; use another variant of the weights."
                ) from None


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"{path} is missing; download the weights again.") from None
    except SafetensorError as error:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(64)
        for signature, kind in _SIGNATURES.items():
            if head.startswith(signature):
                raise UserError(f"{path} ({size} bytes) is {kind}.") from None
        raise UserError(
            f"{path} ({size} bytes) is no complete safetensors file ({error}); download it again."
        ) from None


class InMemory(NamedTuple):
    """Tensors in memory. Reading one removes it."""

    source: str
    tensors: dict[str, np.ndarray]

    @property
    def shapes(self) -> Shapes:
        """Of every tensor."""
        return {name: np.shape(tensor) for name, tensor in self.tensors.items()}

    def read(self, name: str) -> np.ndarray:
        """One tensor."""
        return self.tensors.pop(name)


def open_msgpack(path: Path, dtype: jax.typing.DTypeLike | None = None) -> InMemory:
    """A `diffusion_flax_model.msgpack` or `flax_model.msgpack`; names are paths joined by "/".

    The format has no index, so all tensors are read, one by one and each converted to `dtype`.

    Raises:
      UserError: the file is damaged.
    """

    def decode(code: int, data: bytes) -> Any:
        packed = msgpack.packb(msgpack.ExtType(code, data))
        array = flax.serialization.msgpack_restore(packed)  # a view of the file's bytes
        return np.array(array, dtype) if isinstance(array, np.ndarray) else array

    try:
        with path.open("rb") as file:
            unpacker = msgpack.Unpacker(file, ext_hook=decode, max_buffer_size=2**32 - 1)
            flat = flatten_dict(unpacker.unpack(), sep="/")
    except FileNotFoundError:
        raise UserError(f"{path} is missing; download the weights again.") from None
    except Exception as error:  # msgpack, NumPy and flax raise many kinds
        raise UserError(
            f"{path} ({path.stat().st_size} bytes) is no complete Flax file ({error!r}); "
            "download it again."
        ) from None
    return InMemory(str(path), flat)


def save_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Writes a safetensors file with the usual access rights.

    Raises:
      UserError: it cannot be written.
    """
    try:
        save_file(dict(tensors), path, metadata)  # only the owner can read it
    except SafetensorError as error:
        raise UserError(f"{path.name} cannot be written ({error}); choose another place.") from None
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


class Renamed(NamedTuple):
    """Tensors of another store under new names.

    Attributes:
      store: the other one.
      names: its name of each tensor, by new name.
    """

    store: Store
    names: Mapping[str, str]

    @property
    def source(self) -> str:
        """The store's."""
        return self.store.source

    @property
    def shapes(self) -> Shapes:
        """Of every tensor, by its new name."""
        shapes = self.store.shapes
        return {name: shapes[old] for name, old in self.names.items()}

    def read(self, name: str) -> np.ndarray:
        """One tensor."""
        return self.store.read(self.names[name])


def under(store: Store, prefix: str) -> Renamed:
    """The tensors whose names start with a prefix, which is removed."""
    names = {name.removeprefix(prefix): name for name in store.shapes if name.startswith(prefix)}
    return Renamed(store, names)


def open_weights(path: Path, dtype: jax.typing.DTypeLike | None = None) -> Store:
    """Opens a weight file, or all shards of an index.

    Raises:
      UserError: a pickle, a damaged file or another format.
    """
    if path.suffix in PICKLES:
        raise UserError(pickle_refusal(path))
    if path.name.endswith(".json") and ".safetensors." in path.name:
        return Safetensors.open(*_shards(path))
    if path.suffix == ".safetensors":
        return Safetensors.open(path)
    if path.suffix == ".msgpack":
        return open_msgpack(path, dtype)
    kind = _FORMATS.get(path.suffix.lower(), f"a file with the suffix {path.suffix!r}")
    raise UserError(
        f"{path} is {kind}, expected .safetensors or .msgpack; use such a file of the weights."
    )


def pickle_refusal(path: Path) -> str:
    """The error for a pickle, with the command that converts it."""
    converted = path.with_suffix(".safetensors").name.replace("pytorch_model", "model")
    if path.name.startswith("diffusion_"):  # only transformers drops the library's name
        converted = path.with_suffix(".safetensors").name
    return (
        f"{path} is a pickle, which can run any program when it is read, so it is refused; if you "
        "trust it, convert it once with PyTorch: safetensors.torch.save_file("
        f"torch.load({path.name!r}, weights_only=True), {converted!r}) "
        "(for a .ckpt, the value of its key 'state_dict')."
    )


def _shards(index: Path) -> Iterable[Path]:
    try:
        weight_map = json.loads(index.read_text())["weight_map"]
        return [index.parent / name for name in sorted(set(weight_map.values()))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{index} is no index of safetensors ({error!r}); download it again."
        ) from None
