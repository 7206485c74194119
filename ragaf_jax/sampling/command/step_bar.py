"""The progress bar over the denoising steps of a call."""

import contextlib
from collections.abc import Callable, Iterator

from tqdm import tqdm

from ragaf_jax.sampling.loop import Progress


@contextlib.contextmanager
def step_bar(total: int) -> Iterator[Callable[[Progress], None]]:
    """A bar on stderr; yields the function that advances it by one step.

    The bar appears with the first step, so that an error before it leaves no empty bar.
    """
    bars: list[tqdm] = []
    with contextlib.ExitStack() as stack:

        def show(progress: Progress) -> None:
            if not bars:
                bars.append(stack.enter_context(tqdm(total=total, unit=" steps")))
            bars[0].set_description(f"stage {progress.stage}", refresh=False)
            bars[0].update()

        yield show
