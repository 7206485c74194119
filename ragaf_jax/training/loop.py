"""The training loop of either stage."""

import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from ragaf_jax.batch import Batch, BatchIterator
from ragaf_jax.checkpoints.checkpointer import Checkpointer, Restored
from ragaf_jax.checkpoints.meta import meta_of
from ragaf_jax.checkpoints.reading import saved_steps
from ragaf_jax.errors import UserError
from ragaf_jax.framing import Size, bucket_name
from ragaf_jax.losses.objective import objective_of
from ragaf_jax.losses.validation import make_validate
from ragaf_jax.monitoring.profiling import Profile
from ragaf_jax.monitoring.response import ResponseState, observe
from ragaf_jax.monitoring.stopwatch import Stopwatch
from ragaf_jax.monitoring.summaries import Numbers, consecutive_skips, summarize
from ragaf_jax.monitoring.writers import Images, Writer
from ragaf_jax.nets.build import build_model
from ragaf_jax.nets.model import Params
from ragaf_jax.runtime.flops import matmul_flops
from ragaf_jax.runtime.interruption import Interruption
from ragaf_jax.runtime.processes import agreed
from ragaf_jax.runtime.sharding import cuts, local_copy, make_mesh, replicated, with_shardings
from ragaf_jax.tokenizer import Tokenizer
from ragaf_jax.training.adopt import with_fields
from ragaf_jax.training.announcing import announce_end, announce_resume, announce_start
from ragaf_jax.training.caches import cache_keys, with_empty_states
from ragaf_jax.training.initial import initial_params
from ragaf_jax.training.optim import learning_rate, optimizer
from ragaf_jax.training.setup import (
    abstract_state,
    check_same_run,
    initial_state,
    load_stage1,
    other_layout,
)
from ragaf_jax.training.state import TrainState
from ragaf_jax.training.step import jitted_step, train_step

# (config, model, state, tokenizer, prepared) → a configuration within the memory budget, a notice.
Fit = Callable[..., tuple[ConfigDict, str]]


def train(
    config: ConfigDict,
    workdir: Path,
    open_iterator: Callable[[Mapping[str, str]], BatchIterator],
    held_out: Batch,
    tokenizer: Tokenizer,
    make_writer: Callable[[int], Writer],
    sample: Callable[[Params], Images] | None = None,
    responses: Callable[[Params], dict[str, float]] | None = None,
    profiled: range = range(0),
    prepared: Callable[[Mapping[str, str]], Sequence[str]] = lambda keys: (),
    fit: Fit = lambda config, *_: (config, ""),
    interruption: Interruption | None = None,
) -> TrainState:
    """Trains to `config.train.steps`, resuming from the workdir's newest checkpoint.

    SIGTERM ends it after the current step, with a checkpoint.

    Args:
      config: see `configs/base.py`.
      workdir: gets config.json and checkpoints.
      open_iterator: `cache_keys` → the training batches, read from these caches.
      held_out: examples of different images for the validation loss.
      tokenizer: of the batches' tokens; stored with every checkpoint.
      make_writer: the step before the first → the writer of scalars and images.
      sample: parameters → grids of samples by name.
      responses: parameters → condition responses by name; see `monitoring.response.observe`.
      profiled: steps to trace into logs/profile.
      prepared: cache keys → the kinds of caches that exist; for `fit`.
      fit: keeps a step within `config.memory_budget_gib`, as `planning.fitting` does.
      interruption: its `stop_requested` is true afterwards if SIGTERM was received.

    Returns:
      The state after the last step.
    """
    start_time = time.monotonic()
    mesh = make_mesh(config)
    model = build_model(config)
    tx = optimizer(config.train, cuts(mesh))
    meta = meta_of(config, tokenizer)
    keep = config.keep_last, config.keep_best, config.best_metric, config.keep_every
    response_state: ResponseState = {}

    # Start from a checkpoint of this workdir, else Stage 1's average (Stage 2), else config.init's
    # weights, else random numbers. Nothing is written before a start is found. Shapes and shardings
    # are known before any array is allocated.
    abstract = with_shardings(mesh, abstract_state(config, model, tx), config.mesh.frozen)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    restored: Restored | None = None
    if agreed(bool(saved_steps(workdir))):
        checkpointer = Checkpointer(workdir, *keep)
        restored = checkpointer.restore_latest(abstract, other_layout(abstract, tx))
        assert restored is not None  # an unreadable checkpoint raises an error
        check_same_run(restored.meta, meta, workdir)
        response_state = restored.meta.get("response", {})
        state, steps = restored.state, config.train.steps
        announce_resume(workdir, restored.step, steps, restored.meta["config"], meta["config"])
        if restored.step >= steps:
            checkpointer.close()
            return state
    else:
        stage1 = load_stage1(config, tokenizer) if config.stage == 2 else None
        create = functools.partial(initial_state, config, model, tx)
        params = initial_params(config, model, stage1, mesh)
        state = jax.jit(create, out_shardings=shardings, donate_argnums=0)(params)
        del params, stage1
    config, chosen = fit(config, model, state, tokenizer, prepared)
    keys = cache_keys(config, model, state, tokenizer)
    iterator = open_iterator(keys)
    if restored is None:
        checkpointer = Checkpointer(workdir, *keep)
    else:
        iterator.set_state(restored.data_state)
    model, objective = build_model(config), objective_of(config, tokenizer)
    if "text" in keys:
        objective = with_empty_states(objective, model, state)
    announce_start(state)  # before the writer's progress line
    writer = make_writer(int(state.step))
    if chosen:
        writer.text(int(state.step), "budget", chosen)
    if jax.process_index() == 0:
        (workdir / "config.json").write_text(json.dumps(meta["config"], indent=1) + "\n")
    else:
        profiled = range(0)
    step_fn = jitted_step(config, model, tx, objective, shardings, mesh)
    counted: Callable[..., object] = step_fn
    if config.model.remat != "none":
        # Model FLOPs utilisation does not count recomputation.
        plain = build_model(with_fields(config, {"model.remat": "none"}))
        counted = functools.partial(train_step, plain, tx, config.train.ema_decay, objective)
    validate = make_validate(model, objective)
    rate = learning_rate(config.train)
    make_key = jax.jit(jax.random.key, static_argnums=0, out_shardings=replicated(mesh))
    rng = make_key(config.seed + 1)
    pending: list[Numbers] = []
    sizes: list[Size] = []  # of the images of the pending steps
    compiled: set[Size] = set()
    skipped = 0  # consecutive steps
    watch = Stopwatch(config.train.batch_size, dtype=config.model.dtype)
    try:
        with (
            interruption or Interruption() as interruption,
            Profile(profiled, workdir / "logs" / "profile") as profile,
        ):
            first = int(state.step) + 1
            for step in range(first, config.train.steps + 1):
                profile.at(step, state)
                with watch.waits("data"):
                    batch = next(iterator)
                size = batch.sketch.shape[1:3]
                compiles = size not in compiled
                if compiles:
                    watch.restart(pending[-1:])
                    if compiled:
                        about = f"Compiling the training step for {bucket_name(size)} px …"
                        writer.text(step, "compilation", about)
                    compiled.add(size)
                with watch.waits("compute"), jax.set_mesh(mesh):
                    state, scalars = step_fn(rng, state, batch)
                pending.append(scalars)
                sizes.append(size)
                if compiles:
                    count = functools.partial(matmul_flops, counted, rng, state, batch)
                    timed = watch.first_step(size, scalars, count, len(pending))
                    writer.scalars(step, timed)
                    del count  # it would keep the batch in memory
                stops = interruption.requested(step)
                last = step == config.train.steps
                saves = step % config.checkpoint_every == 0 or last or stops

                if step % config.log_every == 0 or saves:
                    # One transfer for many steps: the loop never waits for the device in between.
                    with watch.waits("compute"):
                        values, pending = jax.device_get(pending), []
                    counts = consecutive_skips(values, skipped)
                    skipped = counts[-1]
                    numbers = summarize(values, config.diffusion.steps)
                    numbers["learning_rate"] = float(rate(step - 1))
                    writer.scalars(step, numbers | watch.read(sizes))
                    sizes = []
                    if max(counts) >= config.train.max_skipped:
                        stop_at = step - len(counts) + 1 + counts.index(config.train.max_skipped)
                        give_up(config, workdir, iterator, stop_at)
                measured: dict[str, float] = {}
                every = config.response.every  # 0: never
                if responses is not None and every and step % every == 0 and not stops:
                    measured = responses(local_copy(state.ema_params))
                    writer.scalars(step, measured)
                    response_state, sentences = observe(
                        response_state, step, measured, config.response.warn_after
                    )
                    for sentence in sentences:
                        writer.text(step, "response", sentence)
                # Save before validation and sampling: if these fail, no step is lost.
                if saves:
                    with watch.waits("checkpoint"):
                        now = {**meta, "step": step, "response": response_state}
                        checkpointer.save(step, state, iterator.get_state(), now, measured)
                if stops:
                    break
                if step % config.validate_every == 0 or last:
                    losses = validate(local_copy(state.ema_params), held_out, config.seed)
                    writer.scalars(step, {f"validation/{name}": v for name, v in losses.items()})
                if sample is not None and (step % config.sample_every == 0 or last):
                    writer.images(step, sample(local_copy(state.ema_params)))
            checkpointer.wait()
            # A request may come after the last step: the caller must not start another run.
            if stops or interruption.requested(config.train.steps + 1):
                if int(state.step) == config.train.steps:
                    sentence = "Stopped on request after the last step, which is saved."
                else:
                    sentence = "Stopped on request: this step is saved; the same command resumes."
                writer.text(step, "stop", sentence)
    finally:
        checkpointer.close()
        writer.close()
    if int(state.step) == config.train.steps:
        seconds = time.monotonic() - start_time
        announce_end(config, workdir, config.train.steps - first + 1, seconds)
    return state


def give_up(config: ConfigDict, workdir: Path, iterator: BatchIterator, step: int) -> None:
    """Writes the keys of the last skipped steps' examples to a file and ends the run.

    Raises:
      UserError: always.
    """
    steps = range(step - config.train.max_skipped + 1, step + 1)
    file = workdir / f"skipped_batches_{jax.process_index()}.json"
    batches = [{"step": n, "keys": iterator.keys(n - 1)} for n in steps]
    file.write_text(json.dumps(batches, indent=1) + "\n")
    raise UserError(
        f"The loss or its gradient was NaN or infinite in {len(steps)} consecutive steps, up to "
        f"step {step}, which changed no parameter: check their examples, listed in {file}, or "
        "lower config.train.learning_rate; the checkpoints are from before and unchanged."
    )
