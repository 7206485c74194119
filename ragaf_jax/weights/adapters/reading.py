"""Reads an adapter of any kind: its tensors by module, checked, as weight updates."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ragaf_jax.errors import UserError
from ragaf_jax.weights.adapters.matching import not_read, tensors_by_module
from ragaf_jax.weights.adapters.opening import AdapterFile, settings_alpha
from ragaf_jax.weights.adapters.tensor_names import Module, leaf_shapes
from ragaf_jax.weights.adapters.updates import Adapter, Factors, Hadamard, Kronecker, Product
from ragaf_jax.weights.load import check_finite
from ragaf_jax.weights.names import torch_shape

# By network and path of a parameter: {"unet": {"mid_block/resnets_0/conv1/kernel": …}}.
Adapters = Mapping[str, Mapping[str, Adapter]]

# The tensors of each kind by part: required ones, and optional ones.
_KINDS = (
    (("down", "up"), ("mid",)),
    (("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"), ("hada_t1", "hada_t2")),
    (("lokr_w1", "lokr_w2"), ()),
    (("lokr_w1", "lokr_w2_a", "lokr_w2_b"), ("lokr_t2",)),
    (("lokr_w1_a", "lokr_w1_b", "lokr_w2"), ()),
    (("lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b"), ("lokr_t2",)),
    (("diff",), ()),
)
_MAGNITUDES = ("dora_scale", "lora_magnitude_vector")


def read_adapters(opened: AdapterFile, params: Mapping[str, Any]) -> Adapters:
    """The weight updates of an opened file, in float32.

    Args:
      opened: the file or folder.
      params: {"unet": …, "text_encoder": …, "control": …}, the parameters or their shapes.

    Raises:
      UserError: a tensor that fits no module or has another shape, a missing tensor, NaN.
    """
    leaves = leaf_shapes(params)
    found: dict[str, dict[str, Adapter]] = {}
    for module, names in tensors_by_module(opened, leaves).items():
        for leaf, adapter in _Reader(opened, module, names, leaves).adapters().items():
            found.setdefault(module.network, {})[f"{module.path}/{leaf}"] = adapter
    return found


class _Reader(NamedTuple):
    """Reads the adapters of one module.

    Attributes:
      opened: the file.
      module: the adapted module.
      names: its tensors by part.
      leaves: the shapes of the networks' parameters.
    """

    opened: AdapterFile
    module: Module
    names: Mapping[str, str]
    leaves: Mapping[str, tuple[int, ...]]

    def adapters(self) -> dict[str, Adapter]:
        """The updates of the module's kernel or scale, and of its bias."""
        own = set(self.names) - {"alpha"}
        found: dict[str, Adapter] = {}
        if "diff_b" in own:
            found["bias"] = self._whole("diff_b", self._shape("bias", "diff_b"))
            own.remove("diff_b")
        if not own and found:
            return found
        for required, optional in _KINDS:
            if set(required) <= own <= {*required, *optional, *_MAGNITUDES}:
                break
        else:
            raise self._incomplete()
        if required == ("diff",):
            leaf = "scale" if self._leaf("kernel") is None else "kernel"
            shape = self._shape(leaf, "diff")
            whole = self._whole("diff", shape)
            return found | {leaf: whole._replace(magnitude=self._magnitude(shape))}
        shape = self._shape("kernel", required[0])
        if required[0] == "down":
            return found | {"kernel": self._lora(shape)}
        if required[0] == "hada_w1_a":
            return found | {"kernel": self._loha(shape)}
        return found | {"kernel": self._lokr(shape)}

    def _lora(self, shape: tuple[int, ...]) -> Product:
        rank = self._first_size("down")
        if "mid" in self.names:
            factors = self._tucker("up", "mid", "down", shape, transposed=False)
        else:
            factors = self._pair("up", "down", shape[0], rank, math.prod(shape[1:]))
        return Product(factors, self._scale(rank), self._magnitude(shape))

    def _loha(self, shape: tuple[int, ...]) -> Hadamard:
        first = self._factors("hada_w1_a", "hada_t1", "hada_w1_b", shape)
        second = self._factors("hada_w2_a", "hada_t2", "hada_w2_b", shape)
        scale = self._scale(self._first_size("hada_w1_b"))
        return Hadamard(first, second, scale, self._magnitude(shape))

    def _lokr(self, shape: tuple[int, ...]) -> Kronecker:
        split = "lokr_w1" not in self.names
        rows = self._first_size("lokr_w1_a" if split else "lokr_w1")
        columns = max(1, math.prod(self._stored("lokr_w1_b" if split else "lokr_w1")[1:]))
        if shape[0] % rows or shape[1] % columns:
            raise self._misfit("lokr_w1_a" if split else "lokr_w1", shape[:2], "divisors of ")
        rest = (shape[0] // rows, shape[1] // columns, *shape[2:])
        rank = None
        if split:
            rank = self._first_size("lokr_w1_b")
            first = self._pair("lokr_w1_a", "lokr_w1_b", rows, rank, columns)
        else:
            first = (self._matrix("lokr_w1", rows, columns),)
        if "lokr_w2" in self.names:
            second: Factors = (self._matrix("lokr_w2", rest[0], math.prod(rest[1:])),)
        else:
            rank = self._first_size("lokr_w2_b")
            second = self._factors("lokr_w2_a", "lokr_t2", "lokr_w2_b", rest)
        return Kronecker(first, second, self._scale(rank), self._magnitude(shape))

    def _whole(self, part: str, shape: tuple[int, ...]) -> Product:
        whole = self._matrix(part, shape[0], math.prod(shape[1:]))
        return Product((whole,), np.float32(1))

    def _pair(self, left: str, right: str, rows: int, rank: int, columns: int) -> Factors:
        return self._matrix(left, rows, rank), self._matrix(right, rank, columns)

    def _factors(self, left: str, core: str, right: str, shape: tuple[int, ...]) -> Factors:
        """LoHa's or LoKr's, with a core where the file has one."""
        if core in self.names:
            return self._tucker(left, core, right, shape)
        return self._pair(left, right, shape[0], self._first_size(right), math.prod(shape[1:]))

    def _tucker(
        self, left: str, core: str, right: str, shape: tuple[int, ...], transposed: bool = True
    ) -> Factors:
        """Factors with a core; LoHa and LoKr store the left one transposed, LoCon does not."""
        inner = self._first_size(right)
        outer = self._first_size(core)
        window = shape[2:] or (1, 1)
        cube = self._matrix(core, outer, inner * math.prod(window))
        rows = (outer, shape[0]) if transposed else (shape[0], outer)
        first = self._matrix(left, *rows)
        first = first.T if transposed else first
        return first, cube.reshape(outer, inner, *window), self._matrix(right, inner, shape[1])

    def _scale(self, rank: int | None) -> np.float32:
        """alpha / rank; without a rank, LyCORIS ignores alpha."""
        if "alpha" not in self.names:
            return np.float32(settings_alpha(self.opened, self.module, rank) / (rank or 1))
        alpha = self._array("alpha").squeeze()
        if alpha.shape:
            raise self._misfit("alpha", ())
        return np.float32(1 if rank is None else alpha / rank)

    def _magnitude(self, shape: tuple[int, ...]) -> np.ndarray | None:
        """DoRA's m along the outputs; LyCORIS may have it along the inputs."""
        part = next((part for part in _MAGNITUDES if part in self.names), None)
        if part is None:
            return None
        stored, array = self._stored(part), self._array(part)
        ones = (1,) * (len(shape) - 1)
        along_inputs = part == "dora_scale" and stored[:1] == (1,) != shape[:1]
        if along_inputs and array.size == shape[1]:
            return array.reshape(1, shape[1], *ones[1:])
        if array.size != shape[0]:
            raise self._misfit(part, (shape[0], *ones))
        return array.reshape(shape[0], *ones)

    def _matrix(self, part: str, rows: int, columns: int) -> np.ndarray:
        """A tensor as (rows, columns); a matrix may be stored as a 1×1 convolution."""
        stored = self._stored(part)
        if not stored or stored[0] != rows or math.prod(stored[1:]) != columns:
            raise self._misfit(part, (rows, columns))
        return self._array(part).reshape(rows, columns)

    def _array(self, part: str) -> np.ndarray:
        array = self.opened.store.read(self.names[part])
        check_finite(array, self.names[part], self.opened.store.source)
        return np.asarray(array, np.float32, order="C")

    def _stored(self, part: str) -> tuple[int, ...]:
        return self.opened.store.shapes[self.names[part]]

    def _first_size(self, part: str) -> int:
        """The first size of a tensor, at least 1, so that others are compared with a valid one."""
        return max((1, *self._stored(part)[:1]))

    def _leaf(self, leaf: str) -> tuple[int, ...] | None:
        return self.leaves.get(f"{self.module.network}/{self.module.path}/{leaf}")

    def _shape(self, leaf: str, part: str) -> tuple[int, ...]:
        """The parameter's shape in PyTorch."""
        if (shape := self._leaf(leaf)) is None:
            raise not_read(self.names[part], self.opened.store, self.leaves)
        return torch_shape(f"{self.module.path}/{leaf}", shape)

    def _misfit(self, part: str, expected: tuple[int, ...], what: str = "") -> UserError:
        return UserError(
            f"The tensor {self.names[part]} in {self.opened.store.source} has shape "
            f"{self._stored(part)}, expected {what}{expected}; the LoRA belongs to another network."
        )

    def _incomplete(self) -> UserError:
        """The error for tensors that make no kind of adapter."""
        own = set(self.names) - {"alpha", "diff_b", *_MAGNITUDES}
        nearest = max(_KINDS, key=lambda kind: len(own & {*kind[0], *kind[1]}))
        missing, surplus = set(nearest[0]) - own, own - {*nearest[0], *nearest[1]}
        shown = ", ".join(self.names.values())
        if surplus:
            return UserError(
                f"{self.opened.store.source} holds {shown}, which are of different kinds of "
                "adapters, expected one kind per module; save each in a separate file."
            )
        return UserError(
            f"{self.opened.store.source} holds {shown} without its other half "
            f"({', '.join(sorted(missing))}); the file is incomplete."
        )
