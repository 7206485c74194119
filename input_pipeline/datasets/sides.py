"""Captions of mirrored images, by the rule of each dataset."""

import re

# OpenMoji: exact, because its captions are names of emoji, colours and places.
_SIDES = {"left": "right", "waxing": "waning", "first": "last", "clockwise": "counterclockwise"}
_SIDES |= {other: side for side, other in _SIDES.items()}
# Matches "left-facing fist" and "rightwards hand", but neither "bright" nor "left luggage".
_SIDE = re.compile(
    r"\b(?:(?:left|right)(?=wards\b|\b)(?! luggage)|(?:first|last)(?= quarter)"
    r"|waxing\b|waning\b|(?:counter)?clockwise\b)"
)


def swap_sides(caption: str) -> str:
    """OpenMoji's rule: swaps left and right, and the directions of rotations and moon phases.

    Its captions are in lower case.
    """
    return _SIDE.sub(lambda match: _SIDES[match[0]], caption)


# Sentences: "left" is also the past of "leave", and "right" is "correct" or "immediately". Only
# these phrases certainly name sides. Each is one with left and right exchanged too, so that the
# rule is its own inverse.
_LR = "(?:left|right)"
_THEIR = (
    r"(?:his|her|its|their|my|your|our|(?:the )?"
    r"(?!(?:what|that|it|there|here|where|who|how|he|she|let)['’])[^\W\d_]+(?:['’]s|s['’]))"
)
_AND = "(?:and|or) (?:the|a|an|another|one|two|three|some|on|to|in|is|are|his|her|its|their)"
_OF = r"of (?!(?:the )?(?:way|law|history|fabric|cloth|\d))"
# What may follow a side that is a noun; "on the right track" has none.
_STOP = rf'\s*(?:$|[.,;:!)\]"”]|[-–—]\s|{_AND}\b|{_OF}|(?:is|are|was|were)\b)'
_END = (
    rf"(?={_STOP}|\s(?:has|have|had|with|while|as|in|on|near|under|who|whose|holding|holds|wearing"
    r"|wears|looking|facing|standing|sitting|sits|eating|playing|smiling)\b)"
)
_AT = "(?:on|to|at|from|towards?)"
_FAR = "(?:far|extreme|upper|lower)"
_PLACE = rf"(?:{_FAR}|top|bottom|front|back|rear)"
_BODY = (
    "(?:(?:hand|arm|leg|eye|ear|shoulder|knee|wrist|elbow|cheek|thigh|ankle|hip|paw|wing|fist"
    "|thumb)s?|foot|feet)"
)
_BODY_END = rf"(?:{_END}|(?= (?:up|out|down|raised|extended|over|under|against|around|behind)\b))"
_PHRASES = (
    rf"(?:from (?:the )?)?{_LR} to (?:the )?{_LR}(?={_STOP})",
    rf"{_AT} (?:both )?(?:the |{_THEIR} )?{_LR} (?:and|or) (?:the )?{_LR}(?: sides?)?(?={_STOP})",
    rf"{_AT} the (?:{_FAR} )?{_LR}{_END}",
    rf"in the {_FAR} {_LR}{_END}",
    rf"{_AT} {_THEIR} (?:{_FAR} )?{_LR}(?={_STOP})",
    rf"(?:^|(?:the|{_AT}|in|along|{_THEIR}) )(?:{_PLACE}[ -])?{_LR} side{_END}",
    rf"(?:{_AT}|in|near|along) the {_LR} (?:half|edge|corner|third|foreground|background){_END}",
    rf"{_PLACE}[ -]{_LR} (?:corner|edge|quadrant|half){_END}",
    rf"(?:{_PLACE}[ -])?{_LR}[ -]hand (?:side|corner|edge){_END}",
    rf"(?:in|at|on) (?:the )?{_PLACE}[ -]{_LR} of the (?:picture|image|photo|frame|scene|screen)\b",
    rf"{_THEIR} {_LR} {_BODY}\b{_BODY_END}",
    rf"(?:facing|turning|pointing|leaning) {_LR}(?={_STOP})",
    rf"{_LR}-facing\b",
    rf"\((?:on )?(?:the )?{_LR}\)",
    rf"{_LR}(?:most|wards?)\b",
)
_LETTER = r"[^\W\d_]"
_PHRASE = re.compile(rf"(?<!{_LETTER})(?:{'|'.join(_PHRASES)})", re.IGNORECASE)
# Not within names in a phrase: "the playwright's left hand".
_LEFT_OR_RIGHT = re.compile(rf"(?<!{_LETTER}){_LR}", re.IGNORECASE)
# All words that may name a side, in any sense; elsewhere they leave an image as it is. Neither
# "bright" nor "leftovers" nor "rights".
_SIDED = re.compile(
    rf"(?<!{_LETTER})(?:(?:top|bottom|upper|lower)?(?:left(?!-?over)|right(?!s\b|eous|ful|ly\b))"
    r"|(?:anti|counter)?-?clockwise|waxing|waning"
    # German, Dutch, French, Spanish, Italian, Portuguese
    r"|links|rechts|linke[mnrs]?\b|rechte[mnrs]?\b|gauche|droite?\b|izquierd|derech|sinistr|destr[ao]\b"
    r"|esquerd|direit|лев|прав|слева|справа)|左|右|왼|오른|يسار|يمين",
    re.IGNORECASE,
)


def mirrored_sentence(caption: str) -> str | None:
    """The caption of a mirrored photograph, with left and right exchanged in phrases of sides.

    None if a word that may name a side is elsewhere: "a bench is left in the rain", "right next to
    the river", "ein Hund links im Bild". The rule is for English; words of sides in several other
    languages are known, but never exchanged.
    """
    if not _SIDED.search(caption):
        return caption
    if _SIDED.search(_PHRASE.sub(" ", caption)):
        return None
    return _PHRASE.sub(lambda phrase: _LEFT_OR_RIGHT.sub(_other, phrase[0]), caption)


def _other(side: re.Match[str]) -> str:
    """Left for right, and reverse, with the same capitals."""
    word = side[0]
    other = "right" if word.lower() == "left" else "left"
    if word.isupper():
        return other.upper()
    return other.capitalize() if word[0].isupper() else other
