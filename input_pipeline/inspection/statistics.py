"""Statistics of prepared data, and the shares beyond the limits of a run."""

import collections
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from input_pipeline import record_format
from input_pipeline.records import RecordSource
from ragaf_jax.tokenizer import Tokenizer

# Numbers of listed categories, rejections and captions with sides; others are only counted.
_CATEGORIES, _REASONS, _SIDED = 20, 10, 10
_BINS = 48  # at most, per histogram


class Budgets(NamedTuple):
    """Limits of a run per example: the fields of the same names in `config.data`."""

    text_length: int  # tokens of a caption, including BOS and EOS
    max_regions: int  # nodes of the padded graph, including one padding node
    max_edges: int  # edges of the padded graph

    @property
    def limits(self) -> dict[str, int]:
        """The limits by the name of the distribution."""
        return {
            "regions": self.max_regions - 1,
            "edges": self.max_edges,
            "caption_tokens": self.text_length,
        }


class Measured(NamedTuple):
    """Values of n records and their c captions."""

    groups: list[str]
    categories: list[str]
    sided: list[tuple[str, str | None]]  # captions that name sides, and `Dataset.mirrored_caption`
    regions: Int[np.ndarray, " n"]
    regions_found: Int[np.ndarray, " n"]  # before merging
    edges: Int[np.ndarray, " n"]
    ink_share: Float[np.ndarray, " n"]  # 0 is a white page, 1 a black one
    sizes: Int[np.ndarray, "n 2"]  # height and width, px
    source_sizes: Int[np.ndarray, "n 2"]  # before preparation; without buckets, equal to `sizes`
    caption_tokens: Int[np.ndarray, " c"]  # including BOS and EOS
    unknown_words: Int[np.ndarray, " c"]


def measure(source: RecordSource, tokenizer: Tokenizer, bar: tqdm) -> Measured:
    """Reads every record once, without its image; advances `bar`."""
    needed = ["group", "category", "nodes", "senders", "regions_found", "sketch", "captions"]
    needed += ["source_size"] if "buckets" in source.metadata else []
    columns: dict[str, list[Any]] = {name: [] for name in Measured._fields}
    for index, record in enumerate(source.fields(*needed)):
        counts = [tokenizer.count(caption) for caption in record["captions"]]
        columns["groups"].append(record["group"])
        columns["categories"].append(record["category"])
        columns["regions"].append(len(record["nodes"]))
        columns["regions_found"].append(record["regions_found"])
        columns["edges"].append(len(record["senders"]))
        columns["ink_share"].append(1 - record["sketch"].mean() / 255)
        columns["sizes"].append(source.size(index))
        columns["source_sizes"].append(record.get("source_size", source.size(index)))
        columns["caption_tokens"] += [tokens for tokens, _ in counts]
        columns["unknown_words"] += [unknown for _, unknown in counts]
        mirrored = ((text, source.mirrored_caption(text)) for text in record["captions"])
        columns["sided"] += [both for both in mirrored if both[0] != both[1]]
        bar.update()
    texts = {name: columns.pop(name) for name in ("groups", "categories", "sided")}
    return Measured(**texts, **{name: np.array(column) for name, column in columns.items()})


def measure_all(sources: Mapping[str, RecordSource], tokenizer: Tokenizer) -> dict[str, Measured]:
    """`measure` of every split."""
    total = sum(map(len, sources.values()))
    with tqdm(total=total, desc="reading", unit=" records") as bar:
        return {split: measure(source, tokenizer, bar) for split, source in sources.items()}


def statistics(
    measured: Mapping[str, Measured], budgets: Budgets, merged_above: int
) -> dict[str, Any]:
    """The statistics of a dataset as a JSON object.

    Args:
      measured: values of every split.
      budgets: limits of a run.
      merged_above: largest number of regions per sketch in these data.

    Returns:
      `budgets`; `splits`, the summary of each split and of "all"; `histograms` of distributions
      with a limit; `categories` in descending order of records; `sided`, the first captions with
      sides and those of their mirror images, if any; `groups_in_several_splits`, 0 if training and
      test sets share no sketch or photo.
    """
    every = joined(list(measured.values()))
    split_groups = [set(each.groups) for each in measured.values()]
    summaries = {
        split: summary(each, budgets, merged_above)
        for split, each in {**measured, "all": every}.items()
    }
    limits = budgets.limits.items()
    return {
        "budgets": {**budgets._asdict(), "regions_kept": merged_above},
        "splits": summaries,
        "histograms": {name: histogram(getattr(every, name), limit) for name, limit in limits},
        "categories": _categories(every.categories),
        "sided": [list(both) for both in dict.fromkeys(every.sided)][:_SIDED],
        "groups_in_several_splits": sum(map(len, split_groups)) - len(set().union(*split_groups)),
    }


def joined(parts: Sequence[Measured]) -> Measured:
    """The records of several splits as one."""

    def join(column: tuple[Any, ...]) -> Any:
        is_text = isinstance(column[0], list)
        return list(itertools.chain(*column)) if is_text else np.concatenate(column)

    return Measured(*map(join, zip(*parts, strict=True)))


def summary(measured: Measured, budgets: Budgets, merged_above: int) -> dict[str, Any]:
    """Counts, distributions, and shares (0 … 1) of records or captions beyond a limit."""
    limits = budgets.limits
    words = (measured.caption_tokens - 2).sum()
    return {
        "records": len(measured.groups),
        "groups": len(set(measured.groups)),
        "captions": len(measured.caption_tokens),
        "mirrored_captions": _mirrored(measured),
        **{name: distribution(getattr(measured, name)) for name in (*limits, "ink_share")},
        "shares": {
            "regions_merged": _share(measured.regions_found > merged_above),
            "regions_over_budget": _share(measured.regions > limits["regions"]),
            "edges_trimmed": _share(measured.edges > limits["edges"]),
            "captions_cut": _share(measured.caption_tokens > limits["caption_tokens"]),
            "unknown_words": float(measured.unknown_words.sum() / max(words, 1)),
            "one_region": _share(measured.regions == 1),
            "no_ink": _share(measured.ink_share == 0),
        },
    }


def _mirrored(measured: Measured) -> dict[str, int]:
    """Numbers of captions by what the mirror image of their example has."""
    exchanged = sum(mirrored is not None for _, mirrored in measured.sided)
    return {
        "same": len(measured.caption_tokens) - len(measured.sided),
        "exchanged": exchanged,
        "none": len(measured.sided) - exchanged,
    }


def distribution(values: Int[np.ndarray, " n"] | Float[np.ndarray, " n"]) -> dict[str, float]:
    """Minimum, median, mean, 95th percentile and maximum."""
    return {
        "min": values.min().item(),
        "median": float(np.median(values)),
        "mean": float(values.mean()),
        "percentile_95": float(np.percentile(values, 95)),
        "max": values.max().item(),
    }


def histogram(values: Int[np.ndarray, " n"], limit: int) -> dict[str, Any]:
    """Counts in bins of `width` integers, from 0 to at least `limit`."""
    width = -(-(max(values.max().item(), limit) + 1) // _BINS)
    counts = np.bincount(values // width, minlength=limit // width + 1)
    return {"width": width, "limit": limit, "counts": counts.tolist()}


def rejected(folder: Path) -> dict[str, Any]:
    """The number of examples that preparation rejected, and the first of them."""
    path = folder / record_format.REJECTED_FILE
    if not path.exists():
        return {"number": 0, "first": []}
    # File names need not be UTF-8 and may contain characters that `splitlines` splits at.
    lines = path.read_text(encoding="utf-8", errors="replace").rstrip("\n").split("\n")
    return {"number": len(lines), "first": [json.loads(line) for line in lines[:_REASONS]]}


def _categories(categories: Sequence[str]) -> dict[str, Any]:
    counts = collections.Counter(filter(None, categories))
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    others = ordered[_CATEGORIES:]
    return {
        "number": len(ordered),
        "largest": dict(ordered[:_CATEGORIES]),
        "others": {"number": len(others), "records": sum(count for _, count in others)},
    }


def _share(which: np.ndarray) -> float:
    return float(which.mean())
