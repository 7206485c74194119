"""Sketch and prompt in, pictures out: both trained stages behind one call."""

import dataclasses
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from ragaf_jax.batch import Batch, ink_on_black
from ragaf_jax.errors import UserError
from ragaf_jax.graph.build import GraphConfig, RegionGraph
from ragaf_jax.graph.padding import pad_graph, stack_graphs
from ragaf_jax.graph.prepare import SketchRegions, page_size, sketch_regions
from ragaf_jax.graph.regions import REGION_KINDS, Regions
from ragaf_jax.nets.model import Model
from ragaf_jax.sampling.stages import Draw, Stage, make_draw, restore_both, settings_of
from ragaf_jax.training.setup import check_stages_match


class Result(NamedTuple):
    """Pictures of side s, n regions, T tokens, and how they came about.

    Attributes:
      stage1, stage2: what each stage made.
      sketch: the drawing as the networks saw it; paper 255, ink 0.
      regions: where its regions lie.
      graph: how they hang together.
      pieces: the text of each token.
      attention: each region's attention over the tokens, averaged over timesteps; rows sum to 1.
      fusion: α (sketch) and β (text) of each region, averaged likewise; they sum to 1. Both are
        None of a Stage 2 without RAGAF.
      settings: every choice of the call, defaults filled in.
      notices: what of sketch and prompt the model could not take in, as sentences.
      seconds: time spent by part; "sampling" includes compilation the first time.
    """

    stage1: UInt8[np.ndarray, "s s 3"]
    stage2: UInt8[np.ndarray, "s s 3"]
    sketch: UInt8[np.ndarray, "s s"]
    regions: Regions
    graph: RegionGraph
    pieces: list[str]
    attention: Float[np.ndarray, "n t"] | None
    fusion: Float[np.ndarray, "n 2"] | None
    settings: dict[str, Any]
    notices: list[str]
    seconds: dict[str, float]


class Pipeline:
    """Two trained stages, ready to draw."""

    def __init__(self, stage1: Stage, stage2: Stage):
        """Puts the parameters on the device.

        Raises:
          UserError: the stages do not fit each other.
        """
        check_stages_match(stage1.meta, stage2.meta, stage1.config.data.dataset)
        self.stage1, self.stage2 = stage1, stage2
        self._params1, self._params2 = jax.device_put((stage1.params, stage2.params))
        self._draws: dict[tuple[str, int], Draw] = {}

    @classmethod
    def restore(cls, stage1: Path, stage2: Path) -> "Pipeline":
        """From the workdirs of both stages alone.

        Raises:
          UserError: no whole checkpoint in one of them, or stages that do not fit each other, as
            those of different image sizes.
        """
        return cls(*restore_both(Path(stage1), Path(stage2)))

    @property
    def page_size(self) -> int:
        """Side of the page that `__call__` takes: that of the training records' pages."""
        return page_size(self.stage2.model.image_size)

    def __call__(
        self,
        page: UInt8[np.ndarray, "page page"],
        prompt: str,
        *,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        sketch_guidance: float | None = None,
        guidance_until: float | None = None,
        strength: float | None = None,
        sampler: str | None = None,
    ) -> Result:
        """Draws one picture. What is None is as Stage 2's config says.

        Only a new pair of `sampler` and `steps` compiles anew; and once more, of each pair, the
        first `sketch_guidance` that is not 1, as that takes a third evaluation of the networks.

        Args:
          page: paper 255, ink 0, of side `page_size`.
          prompt: may be empty.
          seed: in 0 … 2³² - 1; the same seed and settings give the same pictures.
          steps: denoising steps of either stage.
          guidance: scale of the text; 1 is the plain conditional model.
          sketch_guidance: scale of the sketch and its regions; 1 likewise.
          guidance_until: below this share of the timesteps both scales count as 1.
          strength: how far Stage 2 noises Stage 1's picture: 0 not at all, 1 wholly.
          sampler: a name in `diffusion.samplers.SAMPLERS`.

        Raises:
          UserError: a setting out of its range, or a page that is no square of a fitting size.
        """
        config = self.stage2.config.sample
        asked = {
            "steps": steps,
            "guidance": guidance,
            "sketch_guidance": sketch_guidance,
            "guidance_until": guidance_until,
            "strength": strength,
            "sampler": sampler,
        }
        chosen = {name: config[name] if value is None else value for name, value in asked.items()}
        chosen["seed"] = seed
        _check(chosen, self.stage2.config.diffusion.steps)

        started = time.perf_counter()
        prepared = self._regions(page)
        tokens, mask = self.stage2.tokenizer.encode([prompt], self.stage2.model.text_length)
        batch = _batch_of_one(prepared, tokens, mask, self.stage2.model)
        ready = time.perf_counter()
        draw = self._draw(chosen["sampler"], chosen["steps"])
        key = jax.random.key(seed)
        drawn = jax.device_get(draw(self._params1, self._params2, batch, key, settings_of(chosen)))
        done = time.perf_counter()

        n = prepared.regions.n
        return Result(
            stage1=drawn.stage1[0],
            stage2=drawn.stage2[0],
            sketch=prepared.sketch,
            regions=prepared.regions,
            graph=prepared.graph,
            pieces=self.stage2.tokenizer.pieces(tokens[0].tolist()),
            attention=None if drawn.trace is None else drawn.trace.attention.mean(0)[0, :n],
            fusion=None if drawn.trace is None else drawn.trace.fusion.mean(0)[0, :n],
            settings=chosen,
            notices=self._notices(page, prompt),
            seconds={"regions": ready - started, "sampling": done - ready},
        )

    def _regions(self, page: UInt8[np.ndarray, "page page"]) -> SketchRegions:
        """As for the training records, within the budget of this model: one node is padding."""
        # The field is younger than some checkpoints.
        model, kind = self.stage2.model, self.stage2.config.data.get("regions", "strokes")
        usual = REGION_KINDS[kind]
        limit = min(usual.max_regions, model.max_regions - 1)
        return sketch_regions(
            page,
            model.image_size,
            dataclasses.replace(usual, max_regions=limit),
            GraphConfig(),
            model.max_edges,
        )

    def _draw(self, sampler: str, steps: int) -> Draw:
        key = sampler, steps
        if key not in self._draws:
            one, two = self.stage1, self.stage2
            self._draws[key] = make_draw(one.model, one.process(*key), two.model, two.process(*key))
        return self._draws[key]

    def _notices(self, page: UInt8[np.ndarray, "page page"], prompt: str) -> list[str]:
        tokenizer, length = self.stage2.tokenizer, self.stage2.model.text_length
        notices = []
        if page.min() == 255:
            notices.append("The sketch is blank: no line was found on it.")
        if unknown := tokenizer.unknown_words(prompt):
            notices.append(f"The model does not know these words: {', '.join(unknown)}.")
        if tokenizer.encode([prompt], length + 1)[1].all():
            notices.append(f"The prompt is longer than {length} tokens; its end was not read.")
        return notices


def _check(chosen: dict[str, Any], schedule_steps: int) -> None:
    if not 0 <= chosen["seed"] < 2**32:
        raise UserError(f"The seed is {chosen['seed']}; choose one from 0 to {2**32 - 1}.")
    if not 1 <= chosen["steps"] <= schedule_steps:
        raise UserError(f"steps is {chosen['steps']}; choose 1 to {schedule_steps}.")
    for name in ("strength", "guidance_until"):
        if not 0 <= chosen[name] <= 1:
            raise UserError(f"{name} is {chosen[name]}; choose 0 to 1.")
    for name in ("guidance", "sketch_guidance"):
        if not math.isfinite(chosen[name]):
            raise UserError(f"{name} is {chosen[name]}; choose a finite number, usually 1 to 10.")


def _batch_of_one(
    prepared: SketchRegions,
    tokens: Int[np.ndarray, "1 t"],
    mask: Bool[np.ndarray, "1 t"],
    model: Model,
) -> Batch:
    """What the networks are told; there is no image yet."""
    return Batch(
        image=np.zeros((1, *prepared.sketch.shape, 3), np.float32),
        sketch=ink_on_black(prepared.sketch[None]),
        labels=prepared.regions.labels[None],
        graph=stack_graphs([pad_graph(prepared.graph, model.max_regions, model.max_edges)]),
        tokens=tokens,
        token_mask=mask,
    )
