"""A progress bar over the denoising steps of a call of the pipeline."""

import contextlib
from collections.abc import Callable, Iterator

from tqdm import tqdm

from ragaf_jax.sampling.drawn import Progress


@contextlib.contextmanager
def step_bar(total: int) -> Iterator[Callable[[Progress], None]]:
    """A bar on stderr, and the function that takes it one step on.

    Args:
      total: steps of all stages, as `Pipeline.steps` counts them.
    """
    # It appears with the first step, after compilation: an error before leaves no empty bar.
    with tqdm(total=total, desc="sampling", unit=" steps", delay=1e-3) as bar:

        def show(progress: Progress) -> None:
            bar.set_description(f"stage {progress.stage}", refresh=False)
            bar.update()

        yield show
