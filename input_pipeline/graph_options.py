"""The graph of prepared records: flags of the commands, and the suffix of the folder's name."""

import dataclasses
from typing import Any

from absl import flags

from ragaf_jax.graph.build import DEFAULT_GRAPH, GRAPH_KINDS, GraphConfig


def define_graph_flags() -> None:
    """Defines --graph_kind, --graph_k and --graph_radius."""
    flags.DEFINE_enum(
        "graph_kind",
        DEFAULT_GRAPH.kind,
        GRAPH_KINDS,
        "Edges of the graph, see config.data.graph.kind.",
    )
    flags.DEFINE_integer(
        "graph_k",
        DEFAULT_GRAPH.k,
        "Neighbours per region for knn and hybrid.",
        lower_bound=1,
    )
    flags.DEFINE_float(
        "graph_radius",
        DEFAULT_GRAPH.radius,
        "Largest distance for radius and hybrid, as a share of the page.",
        lower_bound=0,
    )


def chosen_graph() -> GraphConfig:
    """The graph that the flags select.

    Raises:
      UserError: a number has no effect on the kind.
    """
    return GraphConfig(flags.FLAGS.graph_kind, flags.FLAGS.graph_k, flags.FLAGS.graph_radius)


def flags_of(graph: GraphConfig) -> str:
    """The flags that select a graph, each after a space; empty for the default."""
    return "".join(f" --graph_{name}={value}" for name, value in _changed(graph).items())


def suffix_of(graph: GraphConfig) -> str:
    """The suffix of the folder's name, such as "_knn_k6"; empty for the default."""
    changed = _changed(graph)
    numbers = (f"_{name[0]}{changed[name]}" for name in ("k", "radius") if name in changed)
    return f"_{graph.kind}{''.join(numbers)}" if changed else ""


def _changed(graph: GraphConfig) -> dict[str, Any]:
    default, fields = dataclasses.asdict(DEFAULT_GRAPH), dataclasses.asdict(graph)
    return {name: value for name, value in fields.items() if value != default[name]}
