"""What is compared: Stage 2 whole, without RAGAF, and without each of its parts."""

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
    """One Stage 2.

    Attributes:
      about: in words, for the table.
      changes: fields of the configuration that differ from the full one's.
      regions: those of its data, a name in `ragaf_jax.graph.regions.REGION_KINDS`.
      graph: the kind of their graph, one of `GRAPH_KINDS`.
      adapters: whether LoRA makes up for RAGAF's parameters.
    """

    about: str
    changes: dict[str, Any]
    regions: str = "strokes"
    graph: str = "hybrid"
    adapters: bool = False


# Without RAGAF the examples that it alone would read are still drawn: so all variants denoise the
# same ones in the same order. What reading them gives, "no_appearance" tells. Adapters make it
# train as many numbers, though of matrices that are trained themselves; what RAGAF's own modules
# can do without regions, "page" tells.
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
    """The fields in which a variant differs from `configs/stage2.py:<recipe>`."""
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
    """How many numbers a configuration trains, if it trains all."""
    return int(count_parameters(build_model(config).shapes()))


def matching_rank(full: ml_collections.ConfigDict, without: ml_collections.ConfigDict) -> int:
    """The least rank with which adapters of the UNet have as many parameters as RAGAF."""
    missing = parameters(full) - parameters(without)
    of_rank_1 = parameters(
        with_fields(without, {"model.lora.patterns": ADAPTED, "model.lora.rank": 1})
    )
    return -(-missing // (of_rank_1 - parameters(without)))
