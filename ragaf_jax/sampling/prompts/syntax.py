"""Parses prompts: weights of words, BREAK, and syntax of other programs that is not supported.

The grammar is that of AUTOMATIC1111's Stable Diffusion web UI, "Attention/emphasis" in its wiki.
"""

import re
from typing import NamedTuple

from ragaf_jax.errors import UserError

FACTOR = 1.1  # of round brackets without a number; square brackets divide by it
LARGEST_WEIGHT = 100  # absolute; far above useful weights

_LEXEME = re.compile(
    r"\\[()\[\]\\]|:\s*(?P<number>[+-]?[\d.,]+)\s*\)|[()\[\]]|[^\\()\[\]:]+|.", re.DOTALL
)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")
# Networks to load, which are no description.
_TAG = re.compile(r"<(?:lora|lyco|hypernet)\b[^>]*>")
# [from:to:when], [to:when], [one|other] and one AND other.
_SCHEDULE = re.compile(r"\[[^\[\]]*(?::\s*[\d.]+\s*|\|[^\[\]]*)\]|\bAND\b")
_SQUARE = re.compile(r"\[[^\[\]]+\]")


class Span(NamedTuple):
    """A part of a prompt, and the weight of its tokens."""

    text: str
    weight: float


class Parsed(NamedTuple):
    """A prompt without its syntax.

    Attributes:
      parts: separated by BREAK, at least one; without empty spans.
      notices: of syntax that has no effect, each to follow the name of the prompt.
    """

    parts: list[list[Span]]
    notices: list[str]


def parse(text: str, *, literal_brackets: bool = False) -> Parsed:
    r"""Parses a prompt.

    `(word)` multiplies the weight of its words by 1.1, `(word:1.3)` by 1.3, and `[word]` divides it
    by 1.1; brackets nest. A bracket that is not closed extends to the end, and a closing bracket
    alone is text. `\(`, `\)`, `\[`, `\]` and `\\` are literal. BREAK ends a part.

    Args:
      text: the prompt.
      literal_brackets: only `(word:1.3)` and BREAK are syntax. It is for models that were trained
        on captions with brackets.

    Raises:
      UserError: a weight that is not a number or is too large.
    """
    kept = _TAG.sub("", text)
    spans: list[tuple[str, float]] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def close(bracket: str, factor: float) -> None:
        start = opened[bracket].pop()
        spans[start] = ("", 1.0)  # the bracket itself
        spans[start:] = [(part, weight * factor) for part, weight in spans[start:]]

    for match in _LEXEME.finditer(kept):
        lexeme, number = match[0], match["number"]
        if lexeme[0] == "\\" and len(lexeme) == 2 and not literal_brackets:
            spans.append((lexeme[1], 1.0))
        elif number is not None and opened["("]:
            close("(", _weight(number))
        elif lexeme == ")" and opened["("] and not literal_brackets:
            close("(", FACTOR)
        elif lexeme == "]" and opened["["]:
            close("[", 1 / FACTOR)
        else:
            if lexeme == "(" or (lexeme == "[" and not literal_brackets):
                opened[lexeme].append(len(spans))
            elif lexeme == ")" and opened["("]:
                opened["("].pop()
            spans.append((lexeme, 1.0))
    notices = _notices(text, kept, literal_brackets)
    if not literal_brackets:
        for bracket, factor in (("(", FACTOR), ("[", 1 / FACTOR)):
            if opened[bracket]:
                notices.append(f"has a {bracket} that is not closed; it extends to the end.")
            while opened[bracket]:
                close(bracket, factor)
    return Parsed(_parts(spans), notices)


def _weight(number: str) -> float:
    try:
        weight = float(number)
    except ValueError:
        raise UserError(
            f"The weight in ':{number})' is not a number; write it like (word:1.3), or \\( for a "
            "bracket."
        ) from None
    if abs(weight) > LARGEST_WEIGHT:
        raise UserError(
            f"The weight in ':{number})' is too large; choose -{LARGEST_WEIGHT} to "
            f"{LARGEST_WEIGHT}, usually 0.5 to 1.5."
        )
    return weight


def _parts(spans: list[tuple[str, float]]) -> list[list[Span]]:
    """Joins spans of one weight, as tokens may extend over them, and splits at BREAK."""
    joined: list[Span] = []
    for text, weight in spans:
        if text and joined and joined[-1].weight == weight:
            joined[-1] = Span(joined[-1].text + text, weight)
        elif text:
            joined.append(Span(text, weight))
    parts: list[list[Span]] = [[]]
    for text, weight in joined:
        first, *others = _BREAK.split(text)
        parts[-1].append(Span(first, weight))
        parts += [[Span(other, weight)] for other in others]
    return [[span for span in part if span.text] for part in parts]


def _notices(text: str, kept: str, literal_brackets: bool) -> list[str]:
    notices = []
    if tags := dict.fromkeys(_TAG.findall(text)):
        notices.append(
            f"has {', '.join(tags)}, which is left out: it names a network to load. Load LoRA "
            "files by --lora (loras= in Python)."
        )
    unsupported = [match[0] for match in _SCHEDULE.finditer(kept)]
    if unsupported:
        notices.append(
            f"has {', '.join(dict.fromkeys(unsupported))}, which is encoded as plain text: "
            "schedules, alternatives and AND are not supported."
        )
    square = [found for found in _SQUARE.findall(kept) if found not in unsupported]
    if literal_brackets and square:
        notices.append(
            f"has {', '.join(dict.fromkeys(square))}, which is encoded as plain text: the model "
            "was trained on captions with brackets, and weights need a number, as in (word:0.9)."
        )
    return notices
