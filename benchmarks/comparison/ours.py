"""The benchmark's networks in this project: its training step and its sampler."""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Float

from benchmarks.comparison.problem import TOKENS, UNETS, VOCABULARY, Job, config_of
from benchmarks.comparison.worker import Ready, inputs_of
from benchmarks.machine import versions
from ragaf_jax.batch import Batch, Text
from ragaf_jax.losses.objective import Objective, objective_of
from ragaf_jax.nets.build import build_model
from ragaf_jax.nets.model import Conditioning, Model, Params, traced_init
from ragaf_jax.partition import merge
from ragaf_jax.planning.shapes import batch_shapes
from ragaf_jax.runtime.heap import keep_freed_memory
from ragaf_jax.runtime.sharding import cuts, make_mesh, put_batch, replicated, state_shardings
from ragaf_jax.sampling.loop import StageRun, sample_stages
from ragaf_jax.sampling.sampling_config import sampling_config_of, scales_of
from ragaf_jax.sampling.stage_sampler import batch_keys, make_stage_sampler
from ragaf_jax.tokenizer import Tokenizer
from ragaf_jax.training.initial import initial_params
from ragaf_jax.training.optim import optimizer
from ragaf_jax.training.setup import initial_state
from ragaf_jax.training.step import jitted_step


def set_up(job: Job) -> Ready:
    """The job in JAX."""
    keep_freed_memory(retires=True)  # as in training
    config = config_of(job)
    model = build_model(config)
    params = _params(job, config, model)
    sizes = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in params.items()}
    inputs = inputs_of(job, UNETS[job.network]["cross_attention_dim"])
    run: Callable[[], None]
    if job.task == "step":
        empty = np.zeros((1, TOKENS, model.text_encoder.config.hidden_size), np.float32)
        objective = objective_of(config, Tokenizer.train([""]))
        text = objective.empty_text._replace(states=empty)
        objective = dataclasses.replace(objective, empty_text=text)
        step, now = training_step(config, model, params, objective)
        del params  # the state owns them
        batch = put_batch(make_mesh(config), random_batch(config, model))
        run = functools.partial(step, batch)
    else:
        run, now = _sampling(config, model, params, inputs["sketch"]), lambda: params

    def answer() -> Float[np.ndarray, "b h w c"]:
        states = jnp.asarray(inputs["text"])
        tokens = jnp.zeros(states.shape[:2], jnp.int32)
        text = Text(tokens, jnp.ones(tokens.shape, bool), states=states)
        conditioning = Conditioning(text, jnp.asarray(inputs["sketch"]))
        predict = jax.jit(lambda *args: model.predict(*args)[0])
        latents, timesteps = inputs["latents"], inputs["timesteps"]
        return np.asarray(predict(now(), latents, timesteps, conditioning), np.float32)

    device = jax.devices()[0]

    def device_peak() -> int | None:
        return (device.memory_stats() or {}).get("peak_bytes_in_use")

    about = versions("jax", "flax") | {
        "device": device.device_kind,
        "parameters": sizes,
        "ceiling": matmul_ceiling(job.dtype) if job.task == "step" else None,
    }
    return Ready(run, answer, about, device_peak)


def matmul_ceiling(dtype: str, side: int = 0) -> float:
    """FLOP/s of the fastest of ten matrix products, an upper bound for any step.

    Args:
      dtype: of the matrices.
      side: of the matrices; 0 for one that saturates the first device.
    """
    side = side or (8192 if jax.default_backend() != "cpu" else 2048)
    # Random matrices, because products of ones take less power and a GPU then raises its clock.
    matrix = jax.random.normal(jax.random.key(0), (side, side), dtype)
    multiply = jax.jit(jnp.matmul)
    jax.block_until_ready(multiply(matrix, matrix))
    seconds = []
    for _ in range(10):
        begin = time.perf_counter()
        jax.block_until_ready(multiply(matrix, matrix))
        seconds.append(time.perf_counter() - begin)
    return 2 * side**3 / min(seconds)


def _params(job: Job, config: ml_collections.ConfigDict, model: Model) -> Params:
    """Parameters of the job's networks; a step from caches has no encoders."""
    if job.folder:
        params = initial_params(config, model, None)
    else:
        params = traced_init(model, jax.random.key(0))
    unused = ("autoencoder", "text_encoder") if job.task == "step" else ()
    return {name: tree for name, tree in params.items() if name not in unused}


class Stepper(NamedTuple):
    """A training step with its state.

    Attributes:
      step: runs on a batch of the mesh and waits for the result.
      params: returns the current parameters.
    """

    step: Callable[[Batch], None]
    params: Callable[[], Params]


def training_step(
    config: ml_collections.ConfigDict, model: Model, params: Params, objective: Objective
) -> Stepper:
    """The step of `training.loop` with mesh, optimiser and average; it donates `params`."""
    mesh = make_mesh(config)
    tx = optimizer(config.train, cuts(mesh))
    begin = functools.partial(initial_state, config, model, tx)
    shardings = state_shardings(mesh, jax.eval_shape(begin, params), config.mesh.frozen)
    state = jax.jit(begin, out_shardings=shardings, donate_argnums=0)(params)
    run = jitted_step(config, model, tx, objective, shardings, mesh)
    rng = jax.device_put(jax.random.key(1), replicated(mesh))

    def step(batch: Batch) -> None:
        nonlocal state
        with jax.set_mesh(mesh):
            state, scalars = run(rng, state, batch)
        jax.block_until_ready(scalars)

    return Stepper(step, lambda: merge(state.trainable, state.frozen))


def random_batch(config: ml_collections.ConfigDict, model: Model) -> Batch:
    """A random batch in a step's shapes; all regions and edges except one are real."""
    rng, shapes = np.random.default_rng(0), batch_shapes(config, model)

    def random_array(shape: jax.ShapeDtypeStruct) -> np.ndarray:
        if shape.dtype == jnp.int32:
            return rng.integers(0, model.max_regions - 1, shape.shape, np.int32)
        if shape.dtype == jnp.bool_:
            return np.ones(shape.shape, bool)
        return rng.random(shape.shape, np.float32).astype(shape.dtype)

    batch = jax.tree.map(random_array, shapes)
    count = np.array([[model.max_regions - 1, 1], [model.max_edges - 1, 1]], np.int32)
    nodes, edges = (np.tile(row, (len(batch.text.tokens), 1)) for row in count)
    return batch._replace(graph=batch.graph._replace(n_node=nodes, n_edge=edges))


def _sampling(
    config: ml_collections.ConfigDict,
    model: Model,
    params: Params,
    sketch: Float[np.ndarray, "b s s 3"],
) -> Callable[[], None]:
    """A function that samples one stage from tokens and sketches to pixels."""
    sampler = make_stage_sampler(model, sampling_config_of(config, Tokenizer.train([""])))
    shapes = batch_shapes(config, model)
    batch = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (len(sketch), TOKENS), np.int32)
    batch = batch._replace(sketch=sketch, text=Text(tokens, np.ones(tokens.shape, bool)))
    scales, seeds = scales_of(config.sample.to_dict()), iter(range(1 << 30))

    def run() -> None:
        keys = batch_keys(jax.random.key(next(seeds)), len(sketch))
        stage = StageRun(config.stage, sampler, params, keys)
        *_, _ = sample_stages([stage], batch, scales, config.sample.steps)

    return run
