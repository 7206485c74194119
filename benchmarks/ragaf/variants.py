"""The variants of Stage 2: complete, without RAGAF, and without each component."""

from typing import Any, NamedTuple

import ml_collections
from clu.parameter_overview import count_parameters

from configs import stage2
from ragaf_jax.graph.build import GRAPH_KINDS
from ragaf_jax.nets.build import build_model
from ragaf_jax.training.adopt import with_fields

# The dense layers and convolutions of the UNet's transformers and ResNets.
ADAPTED = ("unet/.*",)


class Variant(NamedTuple):
    """One variant of Stage 2.

    Attributes:
      about: its title in the table.
      changes: fields of the configuration that differ from the full variant.
      regions: of its data, a name in `ragaf_jax.graph.regions.REGION_KINDS`.
      graph: kind of its graphs, one of `GRAPH_KINDS`.
      adapters: whether LoRA replaces RAGAF's parameters.
    """

    about: str
    changes: dict[str, Any]
    regions: str = "strokes"
    graph: str = "hybrid"
    adapters: bool = False


# "without" still loads the examples for RAGAF alone, so that all variants denoise the same examples
# in the same order; "no_appearance" shows their effect. Its adapters have as many parameters as
# RAGAF, on matrices that are trained too; "page" shows RAGAF's modules without regions.
VARIANTS = {
    "full": Variant("RAGAF", {}),
    "without": Variant("no RAGAF, as many parameters", {"model.ragaf.inject": ()}, adapters=True),
    "no_graph": Variant("no graph attention", {"model.ragaf.layers": 0}),
    "no_bias": Variant("no bias of the cross-attention", {"model.ragaf.inject": ("features",)}),
    "no_features": Variant("no injected features", {"model.ragaf.inject": ("bias",)}),
    "heuristic": Variant("fusion by timestep alone", {"model.ragaf.fusion": "heuristic"}),
    "equal": Variant("no fusion: half sketch, half text", {"model.ragaf.fusion": "equal"}),
    "no_appearance": Variant("no appearance loss", {"train.appearance_weight": 0.0}),
    "ink": Variant("regions are pieces of ink", {}, regions="ink"),
    "page": Variant("one region for the page", {}, regions="page"),
    **{
        kind: Variant(f"edges of {kind} alone", {}, graph=kind)
        for kind in GRAPH_KINDS
        if kind != "hybrid"
    },
}


def changes_of(name: str, recipe: str) -> dict[str, Any]:
    """The fields of a variant that differ from `configs/stage2.py:<recipe>`."""
    variant = VARIANTS[name]
    changes = variant.changes | {
        "data.regions": variant.regions,
        "data.graph.kind": variant.graph,
    }
    if variant.adapters:
        full = stage2.get_config(recipe)
        rank = matching_rank(full, with_fields(full, changes))
        patterns = {"model.lora.patterns": ADAPTED, "model.lora.rank": rank}
        changes |= patterns | {"model.lora.alpha": float(rank)}
    return changes


def parameters(config: ml_collections.ConfigDict) -> int:
    """The number of parameters of a configuration."""
    return int(count_parameters(build_model(config).shapes()))


def matching_rank(full: ml_collections.ConfigDict, without: ml_collections.ConfigDict) -> int:
    """The smallest rank for which the UNet's adapters have as many parameters as RAGAF."""
    missing = parameters(full) - parameters(without)
    of_rank_1 = parameters(
        with_fields(without, {"model.lora.patterns": ADAPTED, "model.lora.rank": 1})
    )
    return -(-missing // (of_rank_1 - parameters(without)))
