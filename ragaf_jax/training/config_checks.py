"""Checks the fields of a configuration before anything is read or written."""

import math

from ml_collections import ConfigDict

from ragaf_jax.caches import cached_kinds
from ragaf_jax.checkpoints.choice import check_choice
from ragaf_jax.diffusion.noise_grid import SIGMAS
from ragaf_jax.diffusion.prediction import PREDICTIONS
from ragaf_jax.diffusion.samplers import SAMPLERS
from ragaf_jax.diffusion.timesteps import SPACINGS
from ragaf_jax.errors import UserError, nearest
from ragaf_jax.framing import parse_buckets
from ragaf_jax.graph.build import GRAPH_KINDS, GraphConfig
from ragaf_jax.graph.regions import REGION_KINDS
from ragaf_jax.losses.terms import TERMS
from ragaf_jax.nets.blocks import REMAT
from ragaf_jax.nets.ragaf import FUSIONS
from ragaf_jax.runtime.sharding import FROZEN
from ragaf_jax.training.optim import OPTIMIZERS

MOST = math.inf

# Least and greatest value of each number.
LIMITS = {
    "stage": (1, 2),
    "mesh.data": (-1, MOST),
    "mesh.fsdp": (-1, MOST),
    "data.recolorings": (1, MOST),
    "data.graph.k": (1, MOST),
    "data.graph.radius": (0, MOST),
    "data.image_size": (8, MOST),
    "data.text_length": (3, MOST),  # a token between start and end
    "data.max_regions": (2, 256),  # labels are stored in eight bits
    "data.max_edges": (1, MOST),
    "data.augment.stroke_width": (0, 1),
    "data.augment.gaps": (0, 1),
    "data.augment.wobble": (0, 1),
    "data.augment.erasure": (0, 1),
    "data.augment.noise": (0, 1),
    "data.tags.dropout": (0, 1),
    "data.tags.keep": (0, MOST),
    "model.haar_levels": (1, MOST),
    "model.clip_skip": (0, MOST),
    "model.lora.rank": (1, MOST),
    "model.lora.dropout": (0, 0.99),
    "diffusion.steps_offset": (0, MOST),
    "diffusion.distilled_steps": (0, MOST),
    "diffusion.original_steps": (1, MOST),
    "train.steps": (1, MOST),
    "train.batch_size": (1, MOST),
    "train.accumulation": (1, MOST),
    "train.max_skipped": (1, MOST),
    "train.read_examples": (0, MOST),
    "train.learning_rate": (0, MOST),
    "train.warmup_steps": (0, MOST),
    "train.weight_decay": (0, MOST),
    "train.clip_norm": (0, MOST),
    "train.ema_decay": (0, 1),
    "train.text_dropout": (0, 1),
    "train.sketch_dropout": (0, 1),
    **{f"train.{term.weight}": (0, MOST) for term in TERMS.values()},
    "log_every": (1, MOST),
    "validate_every": (1, MOST),
    "validation_examples": (2, MOST),  # conditions are shuffled between examples
    "sample_every": (1, MOST),
    "sample_examples": (1, MOST),
    "checkpoint_every": (1, MOST),
    "response.every": (0, MOST),
    "response.examples": (2, MOST),
    "response.sample_steps": (1, MOST),
    "response.warn_after": (1, MOST),
    "evaluation_examples": (2, MOST),
    "keep_last": (1, MOST),
    "memory_budget_gib": (0, MOST),
    "keep_best": (0, MOST),
    "keep_every": (0, MOST),
    "sample.guidance_until": (0, 1),
    "sample.strength": (0, 1),
}

# The accepted values of each name.
CHOICES: dict[str, tuple[str, ...]] = {
    "init.prediction": ("", *PREDICTIONS),
    "mesh.frozen": FROZEN,
    "model.dtype": ("float32", "bfloat16"),
    "model.remat": tuple(REMAT),
    "model.autoencoder": ("haar", "kl"),
    "data.regions": tuple(REGION_KINDS),
    "data.graph.kind": GRAPH_KINDS,
    "data.mirror": ("own", "captions"),
    "model.ragaf.fusion": FUSIONS,
    "diffusion.schedule": ("linear", "scaled_linear", "cosine"),
    "diffusion.prediction": PREDICTIONS,
    "diffusion.timestep_spacing": SPACINGS,
    "train.optimizer": OPTIMIZERS,
    "diffusion.distilled_sampler": tuple(SAMPLERS),
    "sample.sampler": tuple(SAMPLERS),
    "sample.sigmas": SIGMAS,
}

# Values of config.best_metric: for each, greater is better.
METRICS = ("response/sketch", "response/text", "response/sketch_edge_f1", "response/true_edge_f1")


def check_config(config: ConfigDict) -> None:
    """Refuses numbers out of their range, unknown names and contradictory fields.

    Raises:
      UserError: names the first wrong field, its value and what it may be.
    """
    limits = {**LIMITS, "sample.steps": (1, config.diffusion.steps)}
    for name, (least, most) in limits.items():
        value = config[name]
        if not least <= value <= most:
            span = f"{least} or more" if most == MOST else f"from {least} to {most}"
            hint = "; to disable it, choose more than train.steps" if "_every" in name else ""
            raise UserError(f"config.{name} is {value}; it must be {span}{hint}.")
    for name, choices in CHOICES.items():
        value = config[name]
        if value not in choices:
            near = nearest(value, choices)
            meant = f" (did you mean {near[0]!r}?)" if near else ""
            listed = ", ".join(repr(choice) for choice in choices)
            raise UserError(f"config.{name} is {value!r}; choose one of {listed}{meant}.")
    check_choice(config.stage1_checkpoint, "config.stage1_checkpoint")
    _check_tags(config.data)
    parse_buckets(config.data.buckets, config.data.image_size)  # `build_model` checks their sides
    GraphConfig(**config.data.graph)
    _check_batch(config)
    _check_mesh(config.mesh)
    if config.keep_best and config.response.every:
        _check_metric(config)


def _check_tags(data: ConfigDict) -> None:
    """No cache contains varied captions, and `keep` needs a variation."""
    tags, cached = data.tags, cached_kinds(data.cache, "config.data.cache")
    varied = tags.shuffle or tags.dropout
    if varied and "text" in cached:
        raise UserError(
            f"config.data.cache is {data.cache!r} and config.data.tags varies the captions, which "
            "no cache contains; remove 'text', or set tags.shuffle to False and tags.dropout to 0."
        )
    if tags.keep and not varied:
        raise UserError(
            f"config.data.tags.keep is {tags.keep}, which has no effect without tags.shuffle and "
            "tags.dropout; set one of them, or leave it out."
        )


def _check_batch(config: ConfigDict) -> None:
    """Microbatches divide the batch, dropout shares fit in it, and only Stage 2 has RAGAF."""
    train = config.train
    if config.stage == 1 and train.read_examples:
        raise UserError(
            f"config.train.read_examples is {train.read_examples} and Stage 1 has no RAGAF; "
            "set it to 0."
        )
    dropouts = train.text_dropout, train.sketch_dropout
    if sum(dropouts) - min(dropouts) / 2 > 1:  # `objective.dropped`
        raise UserError(
            f"config.train.text_dropout is {dropouts[0]} and sketch_dropout {dropouts[1]}; their "
            f"sum less half of the smaller one is {sum(dropouts) - min(dropouts) / 2:.3g}, and it "
            "must be 1 or less: choose smaller ones."
        )
    for name in ("batch_size", "read_examples"):
        if train[name] % train.accumulation:
            raise UserError(
                f"config.train.{name} is {train[name]}, which {train.accumulation} microbatches "
                "cannot share equally; choose a config.train.accumulation that divides it."
            )


def _check_mesh(mesh: ConfigDict) -> None:
    """Each axis has devices, and at most one of them takes all remaining devices."""
    for name in ("data", "fsdp"):
        if mesh[name] == 0:
            raise UserError(
                f"config.mesh.{name} is 0; give the number of devices along it, or -1 for all "
                "remaining ones."
            )
    if mesh.data == mesh.fsdp == -1:
        raise UserError(
            "config.mesh.data and config.mesh.fsdp are both -1, which means all remaining devices; "
            "give the number of devices along one of them, such as --config.mesh.fsdp=1."
        )


def _check_metric(config: ConfigDict) -> None:
    """`best_metric` is measured, at steps that have checkpoints."""
    metric, every, saves = config.best_metric, config.response.every, config.checkpoint_every
    no_graph = config.stage == 1 or not config.model.ragaf.inject
    if no_graph and metric.startswith("response/graph"):
        model = "Stage 1" if config.stage == 1 else "Stage 2 without RAGAF"
        raise UserError(
            f"config.best_metric is {metric!r}, and {model} has no graph; choose one of "
            f"{', '.join(METRICS)}."
        )
    known = METRICS if no_graph else (*METRICS, "response/graph")
    if metric not in known:
        near = nearest(metric, known)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise UserError(
            f"config.best_metric is {metric!r}, which selects no best checkpoint; choose one of "
            f"{', '.join(known)}{meant}, or --config.keep_best=0."
        )
    # The last step has both. A run shorter than either period has only that checkpoint.
    steps = config.train.steps
    if max(every, saves) < steps < math.lcm(every, saves):
        raise UserError(
            f"config.response.every is {every} and config.checkpoint_every is {saves}: no step "
            f"before the last of {steps} has both, so no checkpoint can be selected as the best; "
            "make one a multiple of the other, or set config.keep_best to 0."
        )
