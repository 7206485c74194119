"""The web page of a pipeline: its layout, connected with its event handlers."""

from collections.abc import Sequence

import gradio as gr

from ragaf_jax.demo.events import connect
from ragaf_jax.demo.layout import CACHE_SECONDS, TITLE, Example, lay_out
from ragaf_jax.sampling.pipeline import Pipeline


def build(pipeline: Pipeline, examples: Sequence[Example] = ()) -> gr.Blocks:
    """Builds the page.

    Args:
      pipeline: samples for one visitor at a time.
      examples: sketches and prompts.
    """
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=CACHE_SECONDS, fill_width=True
    ) as page:
        connect(page, pipeline, lay_out(pipeline, examples), examples)
    return page
