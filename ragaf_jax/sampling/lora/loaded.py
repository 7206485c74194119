"""Reads a LoRA file: its weight updates, content hash and training facts."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ragaf_jax.errors import UserError
from ragaf_jax.paths import sha256_of
from ragaf_jax.weights.adapters.opening import adapter_files, open_adapter
from ragaf_jax.weights.adapters.reading import Adapters, read_adapters
from ragaf_jax.weights.adapters.tensor_names import Module, leaf_shapes
from ragaf_jax.weights.adapters.training_facts import TrainingFacts, training_facts

_TITLES = {
    "unet": "UNet",
    "text_encoder": "text encoder",
    "text_encoder/clip_l": "first text encoder",
    "text_encoder/clip_g": "second text encoder",
    "control": "sketch branch",
}

# Size and time of change of each file.
Stamps = tuple[tuple[int, int], ...]


class LoadedLora(NamedTuple):
    """The content of a file.

    Attributes:
      path: absolute.
      stamps: of its files when they were read.
      sha256: of its content.
      adapters: weight updates, on the host.
      facts: of its training.
    """

    path: str
    stamps: Stamps
    sha256: str
    adapters: Adapters
    facts: TrainingFacts

    @property
    def notice(self) -> str:
        """What the file changes and how it was trained, as one sentence."""
        found = Counter(
            Module(network, path).component
            for network, leaves in self.adapters.items()
            for path in leaves
        )
        counts = [f"{found[name]} in the {title}" for name, title in _TITLES.items() if found[name]]
        parts = [f"parameters changed: {', '.join(counts)}", self.facts.sentence]
        return f"LoRA {Path(self.path).name}: {'; '.join(part for part in parts if part)}."


def load_lora(path: str, stages: Mapping[int, Mapping[str, Any]]) -> LoadedLora:
    """Reads a file, or a folder that diffusers or PEFT wrote.

    Args:
      path: of the file or folder.
      stages: the parameters of each stage, by number.

    Raises:
      UserError: a missing or damaged file, as `read_adapters`, or stages with different sizes.
    """
    where = stamps(path)
    opened = open_adapter(Path(path))
    adapters = read_adapters(opened, stages[max(stages)])
    shapes = [leaf_shapes(params) for params in stages.values()]
    for leaf in (f"{network}/{leaf}" for network, tree in adapters.items() for leaf in tree):
        if len({found.get(leaf) for found in shapes}) > 1:
            raise UserError(
                f"The LoRA {path} changes {leaf}, whose shapes are "
                f"{' and '.join(str(found.get(leaf)) for found in shapes)} in Stages 1 and 2; "
                "sample one of them alone."
            )
    facts = training_facts(opened.store.metadata)
    return LoadedLora(str(Path(path).absolute()), where, lora_digest(path), adapters, facts)


def stamps(path: str | Path) -> Stamps:
    """The stamps of the files at a path, which show whether they have changed.

    Raises:
      UserError: there are none.
    """
    return tuple((s.st_size, s.st_mtime_ns) for s in (file.stat() for file in _files(path)))


def lora_digest(path: str | Path) -> str:
    """The SHA-256 of the content: of the file, or of a folder's tensors, then PEFT's settings.

    Raises:
      UserError: there is no such file.
    """
    return sha256_of(*_files(path))


def _files(path: str | Path) -> tuple[Path, ...]:
    files = adapter_files(Path(path))
    if not files[0].is_file():
        raise UserError(
            f"The LoRA {path} does not exist; give a .safetensors file, or a folder with "
            "pytorch_lora_weights.safetensors or adapter_model.safetensors."
        )
    return files
