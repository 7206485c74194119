"""Prepares OpenMoji's data in the run that reads them, because a package has the drawings."""

import os
from pathlib import Path

from absl import logging
from ml_collections import ConfigDict

from input_pipeline import record_format
from input_pipeline.datasets import registry
from input_pipeline.mixture import parse
from input_pipeline.options import options_of
from ragaf_jax.errors import notify


def prepare_openmoji(data: ConfigDict) -> None:
    """Prepares the OpenMoji datasets of `config.data` that are missing in `data.dir`.

    Other datasets need a folder of images; for them, `records` raises an error with the command.
    Only one of several training processes may call this function.

    Raises:
      UserError: another preparation uses `data.dir`, or `data.dir` is not writable.
    """
    folder, options = Path(data.dir), options_of(data)
    for name, _ in parse(data.dataset):
        if registry.find(name).scan or record_format.folder(folder, name, options).exists():
            continue
        # A slow import that most runs do not need.
        from input_pipeline.preparation.preparing import Execution, prepare

        notify(f"There is no {name} of {data.image_size} px in {folder}/ yet; preparing it, once …")
        workers = len(os.sched_getaffinity(0))
        verbosity = logging.get_verbosity()
        logging.set_verbosity(logging.ERROR)  # TFDS warns of configurations without registration
        try:
            prepare(name, folder, options, Execution(workers, place="config.data.dir"))
        finally:
            logging.set_verbosity(verbosity)
