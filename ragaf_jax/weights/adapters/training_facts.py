"""How an adapter was trained, from its file's header: title, base, trigger words, frequent tags."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

_MOST_TAGS = 8
_LONGEST = 200  # characters of a fact; headers can hold megabytes


class TrainingFacts(NamedTuple):
    """What a file's header records; empty where it does not.

    Attributes:
      title: its name.
      base: the architecture or model that it was trained on.
      resolution: of the training images, such as "512x512".
      clip_skip: layers of the text encoder that training skipped.
      triggers: words that call for what was learnt.
      tags: the most frequent tags of the training captions, with their counts.
    """

    title: str
    base: str
    resolution: str
    clip_skip: str
    triggers: tuple[str, ...]
    tags: tuple[tuple[str, int], ...]

    @property
    def sentence(self) -> str:
        """The facts as one sentence; empty without any."""
        parts = [
            f"title {self.title!r}" if self.title else "",
            f"trained on {self.base}" if self.base else "",
            f"at {self.resolution} px" if self.resolution else "",
            f"with clip skip {self.clip_skip}" if self.clip_skip else "",
            f"trigger words: {', '.join(self.triggers)}" if self.triggers else "",
            f"frequent tags: {', '.join(tag for tag, _ in self.tags)}" if self.tags else "",
        ]
        return "; ".join(part for part in parts if part)


def training_facts(metadata: Mapping[str, str]) -> TrainingFacts:
    """The facts of a header: `ss_…` of kohya, `modelspec.…` and others, without damaged ones."""

    def first(*names: str) -> str:
        found = (_printable(metadata.get(name)) for name in names)
        return next((text for text in found if text not in ("", "None", "null")), "")

    counts = _tag_counts(metadata.get("ss_tag_frequency"))
    frequent = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MOST_TAGS]
    trigger = first("modelspec.trigger_phrase", "trigger_words", "instance_prompt")
    return TrainingFacts(
        title=first("modelspec.title", "ss_output_name", "name"),
        base=first("modelspec.architecture", "ss_base_model_version", "ss_sd_model_name"),
        resolution=first("modelspec.resolution", "ss_resolution").strip("()").replace(", ", "x"),
        clip_skip=first("ss_clip_skip"),
        triggers=(trigger,) if trigger else tuple(_subsets(metadata)),
        tags=tuple(frequent),
    )


def _tag_counts(text: str | None) -> dict[str, int]:
    """Counts of tags over all folders of kohya's `ss_tag_frequency`."""
    counts: dict[str, int] = {}
    for tags in _object(text).values():
        for tag, count in tags.items() if isinstance(tags, Mapping) else ():
            name = _printable(tag)
            if name and isinstance(count, int):
                counts[name] = counts.get(name, 0) + count
    return counts


def _subsets(metadata: Mapping[str, str]) -> list[str]:
    """The words in the names of kohya's folders, such as "sks dog" of "10_sks dog"."""
    tables = (_object(metadata.get(f"ss_{name}")) for name in ("dataset_dirs", "tag_frequency"))
    words = []
    for folder in (folder for table in tables for folder in table):
        repeats, _, name = folder.partition("_")
        if repeats.isdecimal() and (word := _printable(name)):
            words.append(word)
    return list(dict.fromkeys(words))[:_MOST_TAGS]


def _object(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _printable(text: Any) -> str:
    """Text without control characters, which could change a terminal, in one short line."""
    whole = "".join(c if c.isprintable() else " " for c in str("" if text is None else text))
    short = " ".join(whole[: 4 * _LONGEST].split())
    return short if len(short) <= _LONGEST else f"{short[:_LONGEST]}…"
