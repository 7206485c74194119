"""OpenMoji's data are prepared by the run that reads them: their drawings come with a package."""

import os
from pathlib import Path

from absl import logging
from ml_collections import ConfigDict

from input_pipeline import record_format
from input_pipeline.datasets import registry
from input_pipeline.mixture import parse
from ragaf_jax.errors import notify
from ragaf_jax.graph.build import graph_config_of


def prepare_openmoji(data: ConfigDict) -> None:
    """Prepares those OpenMoji data sets of `config.data` that are not in `data.dir` yet.

    Other data sets need a folder of images, so that `records` names the command for them. It shows
    a progress bar for each split. Processes that train together must not call it.

    Raises:
      UserError: another preparation is at work in `data.dir`, or it cannot be written.
    """
    folder, sizes = Path(data.dir), (data.image_size, data.recolorings)
    graph = graph_config_of(data)
    for name, _ in parse(data.dataset):
        if registry.find(name).scan:
            continue
        if record_format.folder(folder, name, *sizes, graph).exists():
            continue
        # Here alone: most runs find their data.
        from input_pipeline.preparation.preparing import Options, Running, prepare

        notify(f"There is no {name} of {data.image_size} px in {folder}/ yet; preparing it, once …")
        options = Options(*sizes, regions=data.regions, graph=graph)
        workers = len(os.sched_getaffinity(0))
        verbosity = logging.get_verbosity()
        logging.set_verbosity(logging.ERROR)  # TFDS warns of configurations that are not its own
        try:
            prepare(name, folder, options, Running(workers, place="config.data.dir"))
        finally:
            logging.set_verbosity(verbosity)
