"""The choice of a run's checkpoint: the newest, the best, or that of a step."""

from ragaf_jax.errors import UserError

NEWEST, BEST = "newest", "best"


def check_choice(choice: str, name: str) -> None:
    """Refuses an invalid value of the flag or field `name`.

    Raises:
      UserError: it is neither "newest" nor "best" nor a step.
    """
    if choice not in (NEWEST, BEST) and not choice.isdecimal():
        raise UserError(
            f"{name} is {choice!r}; give {NEWEST}, {BEST} or the step of a checkpoint, such as "
            "2500."
        )


def choices_of_stages(text: str, name: str = "--checkpoint") -> dict[int, str]:
    """The choice of each stage: one for both, or Stage 1's and Stage 2's separated by a comma.

    Raises:
      UserError: one of them is invalid, or there are more than two.
    """
    choices = text.split(",")
    if len(choices) > 2:
        raise UserError(
            f"{name} is {text!r}; give one checkpoint for both stages, or Stage 1's and Stage 2's, "
            "such as best,4500."
        )
    for choice in choices:
        check_choice(choice, name)
    return {1: choices[0], 2: choices[-1]}
