"""The number fields of the page: labels, ranges and errors.

Gradio's range check does not name the field and prints a traceback on the server.
"""

from typing import Any, NamedTuple

from ragaf_jax.errors import UserError
from ragaf_jax.framing import LARGEST_FACTOR, Sizes
from ragaf_jax.graph.regions import MOST_NECK_SPLITS

MAX_IMAGES = 9  # of one request; three rows of three fit on the page
MAX_STEPS = 100
MAX_SKIP = 23  # of the 24 layers of SD 2's text encoder before pruning


class NumberField(NamedTuple):
    """A field and its range.

    Attributes:
      label: on the page.
      least, most: range, inclusive.
      step: of the field's arrows; an integer allows whole numbers only.
      optional: whether an empty field selects the default.
    """

    label: str
    least: float
    most: float
    step: float
    optional: bool = True

    def checked(self, value: Any) -> Any:
        """The value, whole numbers as int; None for the default.

        Raises:
          UserError: the value is not a number, is out of range, or is not whole where it must be.
        """
        if value is None and self.optional:
            return None
        whole = isinstance(self.step, int)
        if (
            isinstance(value, int | float)
            and self.least <= value <= self.most
            and not (whole and value != int(value))
        ):
            return int(value) if whole else value
        kind = "a whole number" if whole else "a number"
        shown = "empty" if value is None else value
        raise UserError(f"{self.label} is {shown}; choose {kind} from {self.least} to {self.most}.")


NECK_SPLITS_FIELD = NumberField("Neck splits", 0, MOST_NECK_SPLITS, 0.5)


def size_fields(sizes: Sizes) -> dict[str, NumberField]:
    """The fields of the image's width and height; with 0, they follow from the sketch."""
    most = LARGEST_FACTOR * sizes.side
    return {
        name: NumberField(f"{name.capitalize()} (0: auto)", 0, most, sizes.multiple)
        for name in ("width", "height")
    }


def number_fields(schedule_steps: int) -> dict[str, NumberField]:
    """The number fields of a request, by argument of `generation.generate`."""
    return {
        "seed": NumberField("Seed", 0, 2**32 - 1, 1, optional=False),
        "count": NumberField("Images", 1, MAX_IMAGES, 1, optional=False),
        "steps": NumberField("Steps", 1, min(MAX_STEPS, schedule_steps), 1),
        "guidance": NumberField("Guidance scale", 0, 15, 0.5),
        "sketch_guidance": NumberField("Sketch guidance scale", 0, 5, 0.1),
        "sketch_strength": NumberField("Sketch strength", 0, 2, 0.1),
        "sketch_start": NumberField("Sketch start", 0, 1, 0.05),
        "sketch_end": NumberField("Sketch end", 0, 1, 0.05),
        "region_base_ratio": NumberField("Region base ratio", 0, 1, 0.05),
        "region_end": NumberField("Region end", 0, 1, 0.05),
        "strength": NumberField("Stage 2 strength", 0, 1, 0.05),
        "clip_skip": NumberField("CLIP skip", 0, MAX_SKIP, 1),
    }


def checked_settings(settings: dict[str, Any], schedule_steps: int) -> dict[str, Any]:
    """The settings of a request, by argument of `generation.generate`, with checked numbers.

    Raises:
      UserError: the first number out of its range, with the label of its field.
    """
    fields = number_fields(schedule_steps)
    return {
        name: fields[name].checked(value) if name in fields else value
        for name, value in settings.items()
    }
