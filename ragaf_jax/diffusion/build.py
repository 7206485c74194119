"""The noise schedule of a configuration."""

import ml_collections

from ragaf_jax.diffusion.prediction import check_prediction
from ragaf_jax.diffusion.schedule import Schedule, make_schedule


def schedule_of(config: ml_collections.ConfigDict) -> Schedule:
    """The noise schedule of `config.diffusion`, checked against the prediction type."""
    fields = config.diffusion
    schedule = make_schedule(
        fields.schedule, fields.steps, fields.beta_start, fields.beta_end, fields.zero_terminal_snr
    )
    check_prediction(fields.prediction, schedule)
    return schedule
