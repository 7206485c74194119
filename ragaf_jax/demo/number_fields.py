"""The page's number fields: labels, ranges, and errors for values out of range.

Gradio's own check of a range names no field and prints a traceback on the server.
"""

from typing import Any, NamedTuple

from ragaf_jax.errors import UserError
from ragaf_jax.graph.regions import MOST_NECK_SPLITS

MOST_IMAGES = 9  # of one request: three rows of three are all visible
MOST_STEPS = 100


class NumberField(NamedTuple):
    """A field and its range, both ends included.

    Attributes:
      label: as the page shows it.
      least, most: range.
      step: of the field's arrows; only whole numbers where it is an integer.
      optional: whether an empty field stands for the default.
    """

    label: str
    least: float
    most: float
    step: float
    optional: bool = True

    def checked(self, value: Any) -> Any:
        """The value, a whole number as int; None for the default.

        Raises:
          UserError: not a number, out of the range, or not a whole number.
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


NECK_SPLITS_FIELD = NumberField("Region splits at necks", 0, MOST_NECK_SPLITS, 0.5)


def number_fields(schedule_steps: int) -> dict[str, NumberField]:
    """The fields for the numbers of a request, by the arguments of `generation.generate`.

    Args:
      schedule_steps: T of the diffusion process.
    """
    return {
        "seed": NumberField("Seed", 0, 2**32 - 1, 1, optional=False),
        "count": NumberField("Images", 1, MOST_IMAGES, 1, optional=False),
        "steps": NumberField("Steps", 1, min(MOST_STEPS, schedule_steps), 1),
        "guidance": NumberField("Guidance scale", 0, 15, 0.5),
        "sketch_guidance": NumberField("Sketch guidance scale", 0, 5, 0.1),
        "sketch_strength": NumberField("Sketch strength", 0, 2, 0.1),
        "strength": NumberField("Stage 2 strength", 0, 1, 0.05),
    }


def checked_settings(settings: dict[str, Any], schedule_steps: int) -> dict[str, Any]:
    """Settings of a request, with the values of number fields checked.

    Args:
      settings: by the arguments of `generation.generate`.
      schedule_steps: as in `number_fields`.

    Raises:
      UserError: the first number out of its range, by the label of its field.
    """
    fields = number_fields(schedule_steps)
    return {
        name: fields[name].checked(value) if name in fields else value
        for name, value in settings.items()
    }
