"""Merges LoRAs into the parameters of stages, again only when files or strengths change.

ΔW of LoHa, LoKr and DoRA has no low rank, so a forward pass beside the weights would compute it in
every step. Merged parameters have the shapes of the originals, so that the sampling functions
compile nothing and a step costs the same. The sum is in float32, and rounded once to the dtype of
the parameters.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from ragaf_jax.nets.model import Params
from ragaf_jax.sampling.lora.loaded import LoadedLora, load_lora, stamps
from ragaf_jax.sampling.lora.settings import Lora
from ragaf_jax.weights.adapters.reading import Adapters
from ragaf_jax.weights.adapters.updates import added


def merged(params: Params, given: Sequence[tuple[Adapters, Lora]]) -> Params:
    """W + Σ strength · ΔW for each adapted parameter W; ΔW depends on W alone, not on other LoRAs.

    Args:
      params: of a stage, on the devices.
      given: weight updates with their strengths, which are traced.
    """
    flat = flatten_dict(params, sep="/")
    totals: dict[str, jax.Array] = {}
    for adapters, lora in given:
        for network, leaves in adapters.items():
            strength = np.float32(lora.text if network == "text_encoder" else lora.unet)
            for path, adapter in leaves.items():
                name = f"{network}/{path}"
                total = totals.get(name, jnp.asarray(flat[name], jnp.float32))
                totals[name] = added(total, flat[name], adapter, strength)
    for name, total in totals.items():
        # With the same sharding as before, the sampling functions need no other program.
        flat[name] = jax.device_put(total.astype(flat[name].dtype), flat[name].sharding)
    return unflatten_dict(flat, sep="/")


class AdaptedParams:
    """The parameters of stages with the LoRAs of a call; keeps those of the last call."""

    def __init__(self, params: Mapping[int, Params]):
        """Keeps the parameters of each stage, by number, on the devices; files stay on the host."""
        self._params = params
        self._files: dict[str, LoadedLora] = {}
        self._last: dict[int, tuple[tuple[Lora, ...], Params]] = {}

    def load(self, loras: Iterable[Lora]) -> tuple[Lora, ...]:
        """Reads new and changed files; returns the LoRAs with absolute paths and hashes.

        Raises:
          UserError: as `load_lora`.
        """
        found = []
        for lora in loras:
            loaded = self._loaded(lora)
            found.append(dataclasses.replace(lora, path=loaded.path, sha256=loaded.sha256))
        return tuple(found)

    def notices(self, loras: Iterable[Lora]) -> list[str]:
        """What each file changes and how it was trained, one sentence each."""
        return [self._loaded(lora).notice for lora in loras]

    def of_stage(self, number: int, loras: Iterable[Lora]) -> Params:
        """The parameters of a stage with these LoRAs merged."""
        if not (now := self.load(loras)):
            self._last.pop(number, None)
            return self._params[number]
        if number not in self._last or self._last[number][0] != now:
            self._last.pop(number, None)  # frees its memory first
            given = [(self._files[lora.path].adapters, lora) for lora in now]
            self._last[number] = now, merged(self._params[number], given)
        return self._last[number][1]

    def _loaded(self, lora: Lora) -> LoadedLora:
        path = str(Path(lora.path).absolute())
        if path not in self._files or self._files[path].stamps != stamps(path):
            self._files[path] = load_lora(path, self._params)
        return self._files[path]
