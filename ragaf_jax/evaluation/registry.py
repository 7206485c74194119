"""The registry of metrics: names, units, and which direction is better."""

from typing import NamedTuple

from ragaf_jax.graph.features import EDGE_KINDS

SKETCH = "Does it keep to the sketch?"
LIKENESS = "Is it like the true picture?"
CAPTION = "Does it show what the caption says?"
SETS = "Are the pictures, as a set, like the true ones?"
PARTS = "Have the parts the colours asked of them?"
ATTENTION = "Do regions attend to their words?"
GRAPHS = "What are the region graphs like?"


class Metric(NamedTuple):
    """One metric.

    Attributes:
      title: what people call it, with its unit.
      better: "higher" or "lower"; "" where neither is.
      section: the question that it answers.
      digits: after the decimal point.
      of: what has one value: a "drawing", a "part" or a "region" of it, or the "set" of all.
      weights: the field of `config.metrics` that names the network which it needs; "" for none.
    """

    title: str
    better: str
    section: str
    digits: int = 3
    of: str = "drawing"
    weights: str = ""


METRICS = {
    "edge_f1": Metric("edge F1", "higher", SKETCH),
    "edge_precision": Metric("edge precision", "higher", SKETCH),
    "edge_recall": Metric("edge recall", "higher", SKETCH),
    "line_distance": Metric("line distance (Chamfer), px", "lower", SKETCH),
    "edge_map_ssim": Metric("SSIM of edge maps (Canny)", "higher", SKETCH),
    "region_iou": Metric("region IoU", "higher", SKETCH),
    "region_covering": Metric("region covering", "higher", SKETCH),
    "ssim": Metric("SSIM", "higher", LIKENESS),
    "ms_ssim": Metric("MS-SSIM", "higher", LIKENESS),
    "psnr": Metric("PSNR, dB", "higher", LIKENESS, 2),
    "lpips_alex": Metric("LPIPS (AlexNet)", "lower", LIKENESS, weights="lpips_alex"),
    "lpips_vgg": Metric("LPIPS (VGG)", "lower", LIKENESS, weights="lpips_vgg"),
    "clip_score": Metric("CLIP score, 0 … 100", "higher", CAPTION, 2, weights="clip"),
    "fid": Metric("FID", "lower", SETS, 2, "set", "inception"),
    "kid": Metric("KID", "lower", SETS, 4, "set", "inception"),
    "inception_score": Metric("Inception score", "higher", SETS, 2, "set", "inception"),
    "cmmd": Metric("CMMD", "lower", SETS, 3, "set", "clip"),
    "color_accuracy": Metric("region colour accuracy", "higher", PARTS, of="part"),
    "color_difference": Metric("colour difference, ΔE2000", "lower", PARTS, 2, "part"),
    "leak_near": Metric("colour leaked from a part that touches", "lower", PARTS, of="part"),
    "leak_far": Metric("colour leaked from another part", "lower", PARTS, of="part"),
    "attention_phrase": Metric("attention on the part's words", "higher", ATTENTION, of="region"),
    "attention_color": Metric("attention on its colour", "higher", ATTENTION, of="region"),
    "attention_pointing": Metric("pointing game", "higher", ATTENTION, of="region"),
    "graph_regions": Metric("regions", "", GRAPHS, 1),
    "graph_edges": Metric("edges, both ways and self loops", "", GRAPHS, 1),
    **{f"graph_{kind}": Metric(f"edges of kind {kind}", "", GRAPHS, 1) for kind in EDGE_KINDS},
    "graph_merged": Metric("regions beyond the most, merged", "", GRAPHS, 1),
}


def not_computed(name: str, reason: str) -> str:
    """The sentence for a metric that is missing."""
    return f"{METRICS[name].title.partition(',')[0]} is not computed: {reason}"
