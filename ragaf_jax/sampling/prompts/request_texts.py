"""The texts of a request: prompts of the image and of its regions, as inputs of the networks."""

import contextlib
import functools
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from ragaf_jax.errors import UserError
from ragaf_jax.sampling.numbered import NumberedRegions
from ragaf_jax.sampling.prompts.embeddings import Embedding, Embeddings
from ragaf_jax.sampling.prompts.windows import Prompt, make_mixed_texts, make_texts, read_prompt
from ragaf_jax.sampling.sampling_config import RegionMixture, TextConditioning
from ragaf_jax.sampling.stages import Stage
from ragaf_jax.tokenizer import Tokenizer


class EncodedTexts(NamedTuple):
    """The texts of one image, encoded.

    Attributes:
      packed: with region prompts, for RAGAF.
      mixed: returns them for cross-attention that is restricted by region, and raises `UserError`
        for too many tokens; None without region prompts.
      alone: without region prompts.
      lines: the prompt, followed by a line for each region prompt.
      pieces: the characters of each token of `packed.positive`.
      embeddings: textual inversions of all texts.
      notices: on words and syntax, as sentences.
    """

    packed: TextConditioning
    mixed: Callable[[], TextConditioning] | None
    alone: TextConditioning
    lines: str
    pieces: list[str]
    embeddings: list[Embedding]
    notices: list[str]


def encode_texts(
    numbered: NumberedRegions,
    prompt: str,
    region_prompts: Mapping[int, str],
    negative_prompt: str,
    region_negative_prompts: Mapping[int, str],
    stage: Stage,
    embeddings: Embeddings,
) -> EncodedTexts:
    """Encodes the texts of one image; arguments and errors are those of `request.make_request`."""
    _check_by_region("region_prompts", region_prompts)
    _check_by_region("region_negative_prompts", region_negative_prompts)
    wanted, excluded = (
        {number: texts[number].strip() for number in sorted(texts)}
        for texts in (region_prompts, region_negative_prompts)
    )
    ids = [_text_ids(numbered, texts, stage.model.max_regions) for texts in (wanted, excluded)]
    prompts = read_texts(prompt, wanted, negative_prompt, excluded, stage, embeddings)
    main, negative, *regional = prompts.values()
    for name, one in zip([*prompts][2:], regional, strict=True):
        if not one.tokens:
            raise UserError(f"The {name} is empty; describe the region, or leave it out.")
    own, avoided = regional[: len(wanted)], regional[len(wanted) :]
    sizes = stage.tokenizer, stage.model.text_length
    alone = packed = make_texts(main, [], negative, *sizes)
    mixed, none = None, np.zeros_like(ids[0])
    if regional:
        packed = make_texts(main, own, negative, *sizes, avoided)
        every = ids, [main, *own], [negative, *avoided], *sizes
        mixed = functools.partial(_mixed, *every)
    lines = [prompt.strip(), *(f"{number}: {text}" for number, text in wanted.items())]
    lines += [f"{number}, negative: {text}" for number, text in excluded.items()]
    return EncodedTexts(
        TextConditioning(packed.negative, packed.positive, *ids),
        mixed,
        TextConditioning(alone.negative, alone.positive, none, none),
        "\n".join(lines),
        packed.pieces,
        embeddings_of(prompts),
        [f"The {name} {x}" for name, one in prompts.items() for x in one.notices],
    )


def read_texts(
    prompt: str,
    region_prompts: Mapping[int, str],
    negative_prompt: str,
    region_negative_prompts: Mapping[int, str],
    stage: Stage,
    embeddings: Embeddings,
) -> dict[str, Prompt]:
    """The texts of a request by their names in errors: both prompts, then regions by number.

    Negative prompts of regions are last.

    Raises:
      UserError: a text with wrong syntax, or one that is not Unicode.
    """
    texts = {"prompt": prompt, "negative prompt": negative_prompt}
    for kind, of_regions in (("", region_prompts), ("negative ", region_negative_prompts)):
        texts |= {f"{kind}prompt of region {i}": of_regions[i] for i in sorted(of_regions)}
    prompts = {}
    for name, text in texts.items():
        _check_text(name, text)
        with _named(name):
            prompts[name] = read_prompt(text, stage.tokenizer, stage.model.text_length, embeddings)
    return prompts


def embeddings_of(prompts: Mapping[str, Prompt]) -> list[Embedding]:
    """The textual inversions that the texts name, each once."""
    return list({x.name: x for one in prompts.values() for x in one.embeddings}.values())


def _text_ids(
    numbered: NumberedRegions, texts: Mapping[int, str], regions: int
) -> Int[np.ndarray, "1 {regions}"]:
    """The text of each region: i for the i-th text by region number, 0 for the prompt."""
    ids = np.zeros((1, regions), np.int32)
    for text_id, number in enumerate(texts, 1):
        ids[0, numbered.id_of(number)] = text_id
    return ids


def _mixed(
    ids: Sequence[Int[np.ndarray, "1 r"]],
    positive: Sequence[Prompt],
    negative: Sequence[Prompt],
    tokenizer: Tokenizer,
    length: int,
) -> TextConditioning:
    """The texts for cross-attention that is restricted by region, where RAGAF has the prompt alone.

    ids: the text of each region, positive and negative.
    """
    texts, count = make_mixed_texts(positive, negative, tokenizer, length)
    one_hot = np.eye(count, dtype=np.float32)
    mixture = RegionMixture(*(one_hot[of_regions] for of_regions in ids))
    none = np.zeros_like(ids[0])
    return TextConditioning(texts.negative, texts.positive, none, none, mixture)


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Adds the name of a text to its errors."""
    try:
        yield
    except UserError as error:
        raise UserError(f"In the {name}: {error}") from None


def _check_by_region(name: str, given: Any) -> None:
    """Refuses anything but texts by region number."""
    known = isinstance(given, Mapping) and all(
        isinstance(number, numbers.Integral) and isinstance(text, str)
        for number, text in given.items()
    )
    if not known:
        raise UserError(
            f"{name} is {given!r}; give a text for each region number, such as "
            "{3: 'red brick wall'}."
        )


def _check_text(name: str, text: Any) -> None:
    """Refuses other types, and lone surrogates, which Python makes from bytes not in UTF-8."""
    if not isinstance(text, str):
        raise UserError(f"The {name} is {text!r}; give a text.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"The text {text[:40]!a} is not Unicode from character {error.start} on; write it "
            "in UTF-8."
        ) from None
