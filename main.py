r"""Trains, plans, samples, evaluates or adopts a stage.

The workdir is runs/<dataset>/<name of the config file> or --workdir. Stage 2
starts from the Stage 1 beside it or from --config.stage1.

python main.py --config=configs/stage1.py            # in runs/openmoji/stage1
python main.py --config=configs/stage2.py            # in runs/openmoji/stage2
python main.py --mode=both --config=configs/stage2.py:quickstart
python main.py --mode=evaluate --config=configs/stage2.py:quickstart
python main.py --mode=plan --config=configs/stage1.py:openmoji_sd \
    --config.memory_budget_gib=24
python main.py --mode=plan --config=configs/stage1.py:openmoji_sd \
    --target=h200x8,v5e-16 --config.train.batch_size=64
python main.py --mode=sample --config=configs/stage2.py:openmoji \
    --workdir=pretrained/openmoji/stage2
python main.py --mode=adopt --config=configs/stage1.py:openmoji_sd \
    --workdir=runs/sd15 \
    --config.init.checkpoint=stable-diffusion-v1-5/stable-diffusion-v1-5 \
    --config.init.control=lllyasviel/control_v11p_sd15_scribble
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from input_pipeline import configured
from input_pipeline.extraction.augment import AugmentSketch
from input_pipeline.extraction.sketch import canny
from input_pipeline.loader import DevicePrefetcher, train_iterator
from input_pipeline.preparation.automatic import prepare_openmoji
from input_pipeline.transforms import VaryTags
from ragaf_jax.checkpoints.choice import NEWEST, check_choice
from ragaf_jax.checkpoints.reading import load_meta
from ragaf_jax.errors import UserError, run_cli
from ragaf_jax.evaluation.evaluate import evaluate
from ragaf_jax.evaluation.overrides import check_overrides
from ragaf_jax.evaluation.report.showcase import showcase
from ragaf_jax.evaluation.responses import make_responses
from ragaf_jax.evaluation.sample_grid import make_grid
from ragaf_jax.monitoring.profiling import parse_window
from ragaf_jax.monitoring.writers import workdir_writer
from ragaf_jax.nets.build import build_model
from ragaf_jax.paths import PATH, check_no_pattern, expand_fields
from ragaf_jax.planning.fitting import within_budget
from ragaf_jax.planning.sampling import print_sampling_plans
from ragaf_jax.planning.table import print_plan
from ragaf_jax.planning.target_table import print_target_plans
from ragaf_jax.runtime.compilation_cache import keep_compiled
from ragaf_jax.runtime.gpu_memory import raise_share
from ragaf_jax.runtime.heap import keep_freed_memory
from ragaf_jax.runtime.interruption import Interruption
from ragaf_jax.runtime.processes import join, only_training_in
from ragaf_jax.runtime.sharding import make_mesh, put_batch
from ragaf_jax.tokenizer import Tokenizer
from ragaf_jax.training.adopt import adopted, with_distilled_sampling
from ragaf_jax.training.announcing import announce
from ragaf_jax.training.config_checks import check_config
from ragaf_jax.training.config_files import default_workdir, load_config, stage1_file
from ragaf_jax.training.loop import train
from ragaf_jax.training.recorded import check_same_config, with_recorded_data_dir, with_stage1
from ragaf_jax.training.setup import check_start
from ragaf_jax.training.untrained import write_untrained

FLAGS = flags.FLAGS


# The modes of each flag; other modes refuse it.
MODES_OF: dict[str, tuple[str, ...]] = {}


def define_flags() -> None:
    """Defines the flags of this command."""
    config_flags.DEFINE_config_file(
        "config", None, "configs/stage1.py or stage2.py, then :dataset."
    )
    flags.mark_flag_as_required("config")
    flags.DEFINE_enum(
        "mode",
        "train",
        ["train", "both", "plan", "sample", "evaluate", "adopt"],
        "What to do; both: train Stage 1, then Stage 2 of --config; adopt: write the weights of "
        "config.init as a workdir for sampling.",
    )
    path = functools.partial(flags.DEFINE, PATH)
    string, integer, names = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_list

    def of(modes: str, define: Callable[..., Any], name: str, default: Any, about: str) -> None:
        MODES_OF[name] = tuple(modes.split(", "))
        define(name, default, help=f"{modes}: {about}")

    of(
        "train, both, sample, evaluate, adopt",
        path,
        "workdir",
        None,
        "folder of checkpoints, logs and samples; with both, the folder of the workdirs "
        "stage1 and stage2. Default: runs/<dataset>/<name of the config file>.",
    )
    of("sample, evaluate", path, "output", None, "output folder; default: in the workdir.")
    of(
        "sample, evaluate",
        string,
        "checkpoint",
        NEWEST,
        "of Stage 2: newest, best (by config.best_metric) or a step; "
        "config.stage1_checkpoint has Stage 1's.",
    )
    of("evaluate", names, "compare", [], "output folders of others, comma-separated.")
    of("train", string, "profile", "", "steps to trace into logs/profile, such as 100:110.")
    of("plan", names, "target", [], "devices to compile for, such as h200x8,v5e-4.")
    enum = functools.partial(flags.DEFINE_enum, enum_values=["train", "sample"])
    of("plan", enum, "plan_for", "train", "what to compile for --target.")
    count = functools.partial(integer, lower_bound=1)
    of("plan", count, "per_device", 1, "images per device and call.")
    cluster = "train, both"
    boolean = flags.DEFINE_bool
    of(cluster, boolean, "distributed", False, "with the other processes of a cluster job.")
    of(cluster, string, "coordinator", None, "host:port of the first process.")
    of(cluster, integer, "process_id", None, "index of this process, from 0.")
    of(cluster, integer, "process_count", None, "number of processes.")


def check_flags() -> None:
    """Refuses flags that the mode does not use.

    Raises:
      UserError: names the first.
    """
    for name, modes in MODES_OF.items():
        if FLAGS[name].present and FLAGS.mode not in modes:
            named = " and ".join(filter(None, (", ".join(modes[:-1]), modes[-1])))
            raise UserError(
                f"--{name} is for --mode={named}, and the mode is {FLAGS.mode}; leave it out."
            )
    if FLAGS.mode == "adopt" and FLAGS.workdir is None:
        raise UserError("--mode=adopt has no default folder; give --workdir=<a new folder>.")
    check_choice(FLAGS.checkpoint, "--checkpoint")
    if FLAGS["target"].present and not (FLAGS.target and all(FLAGS.target)):
        raise UserError(
            f"--target={','.join(FLAGS.target)} has an empty name; give comma-separated devices, "
            "such as --target=h200x8,v5e-4."
        )
    for name in ("plan_for", "per_device"):
        if FLAGS[name].present and not FLAGS.target:
            raise UserError(f"--{name} requires --target; give devices, such as --target=h200.")
    if FLAGS["per_device"].present and FLAGS.plan_for == "train":
        raise UserError("--per_device is for --plan_for=sample; leave it out.")


def loaded_config() -> ConfigDict:
    """The checked configuration of --config; it is read on first access."""
    try:
        expand_fields(FLAGS.config)
        check_config(FLAGS.config)
    except OSError:
        raise UserError(
            "The file of --config does not exist; give configs/stage1.py or configs/stage2.py, "
            "optionally with a colon and a dataset."
        ) from None
    return FLAGS.config


def both_stages(config: ConfigDict) -> list[tuple[ConfigDict, Path]]:
    """Configuration and workdir of Stage 1 and of Stage 2 for --mode=both.

    Fields from the command line apply to both.

    Args:
      config: Stage 2's.
    """
    file = config_flags.get_config_filename(FLAGS["config"])
    first = stage1_file(file)
    if config.stage != 2 or first is None:
        raise UserError(
            f"--config is {file}; --mode=both needs the configuration of Stage 2, such as "
            "configs/stage2.py, and trains Stage 1 of configs/stage1.py first."
        )
    if config.stage1:
        raise UserError(
            f"config.stage1 is {config.stage1}, and --mode=both trains its own Stage 1; leave it "
            "out, or use --mode=train."
        )
    one = load_config(first, set_fields())
    expand_fields(one)
    check_config(one)
    if FLAGS.workdir is None:
        workdirs = default_workdir(first), default_workdir(file)
    else:
        workdirs = Path(FLAGS.workdir, "stage1"), Path(FLAGS.workdir, "stage2")
    config.stage1 = str(workdirs[0])
    return [(one, workdirs[0]), (config, workdirs[1])]


def set_fields() -> dict[str, Any]:
    """The fields of the configuration that the command line sets, by path."""
    return config_flags.get_override_values(FLAGS["config"])


def prepared(open_examples: Callable[..., Any], config: ConfigDict) -> Callable[..., Any]:
    """`open_examples` for a checkpoint's configuration, after preparing OpenMoji's data."""

    def open_prepared(trained: ConfigDict, tokenizer: Tokenizer) -> Any:
        prepare_openmoji(ConfigDict({**trained.data, "dir": config.data.dir}))
        return open_examples(config, trained, tokenizer)

    return open_prepared


def train_stage(config: ConfigDict, workdir: Path) -> bool:
    """Trains `config.stage` in `workdir`; returns whether it ended without an interruption."""
    profiled = parse_window(FLAGS.profile)
    config, tokenizer = adopted(config, workdir, set_fields())
    # Wrong fields are refused before the data are opened.
    if (meta := load_meta(workdir)) is not None:
        check_same_config(meta["config"], config.to_dict(), workdir)
        config = with_recorded_data_dir(config, meta["config"], set_fields(), workdir)
    elif config.stage == 2 and config.stage1:
        # A new Stage 2 uses the data of its Stage 1.
        first = load_meta(Path(config.stage1))
        if first is not None and first["config"]["data"]["dataset"] == config.data.dataset:
            stage1 = Path(config.stage1)
            config = with_recorded_data_dir(config, first["config"], set_fields(), stage1)
    check_start(config, workdir)
    build_model(config)
    mesh = make_mesh(config)
    if jax.process_count() == 1:  # otherwise the error names the command
        prepare_openmoji(config.data)
    source = configured.open_split(config.data, "train", tokenizer)
    examples = config.train.batch_size + config.train.read_examples

    def open_iterator(keys: Mapping[str, str]) -> DevicePrefetcher:
        batches = train_iterator(
            source.with_caches(keys),
            examples // jax.process_count(),
            config.seed,
            **configured.shapes(config.data),
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            augment=AugmentSketch(**config.data.augment),
            tags=VaryTags(**config.data.tags),
        )
        return DevicePrefetcher(batches, functools.partial(put_batch, mesh))

    shown = config.validation_examples
    validation, truth = configured.held_out(config.data, "validation", shown, tokenizer)
    interruption = Interruption()
    state = train(
        config,
        workdir,
        open_iterator,
        validation,
        source.tokenizer,
        functools.partial(workdir_writer, config, workdir),
        make_grid(config, source.tokenizer, validation, truth),
        make_responses(config, source.tokenizer, validation, truth),
        profiled,
        source.prepared_caches,
        within_budget,
        interruption,
    )
    return int(state.step) >= config.train.steps and not interruption.stop_requested


def main(argv: list[str]) -> None:
    """Runs the mode."""
    del argv
    logging.set_verbosity(logging.WARNING)
    check_flags()
    config = loaded_config()
    if FLAGS.mode == "plan":
        budget = config.memory_budget_gib or None
        if FLAGS.target:
            names = list(dict.fromkeys(FLAGS.target))
            if FLAGS.plan_for == "sample":
                print_sampling_plans(config, names, FLAGS.per_device, budget)
            else:
                print_target_plans(config, names, budget)
            return
        raise_share()  # the share of GPU memory that training uses
        keep_compiled()
        print_plan(config, budget)
        return
    file = config_flags.get_config_filename(FLAGS["config"])
    workdir = default_workdir(file) if FLAGS.workdir is None else Path(FLAGS.workdir)
    check_no_pattern(workdir, "--workdir")
    runs = both_stages(config) if FLAGS.mode == "both" else [(config, workdir)]
    raise_share()
    # Before any use of JAX devices, which fixes the set of devices.
    address = FLAGS.coordinator, FLAGS.process_id, FLAGS.process_count
    if FLAGS.distributed or any(x is not None for x in address):
        join(*address)
    keep_compiled()
    keep_freed_memory(retires=True)
    meta = load_meta(workdir)
    recorded = None if meta is None else meta["config"]
    if FLAGS.mode != "both":
        config = with_stage1(config, recorded, set_fields(), workdir)
        runs = [(config, workdir)]
    if FLAGS.mode in ("train", "both"):
        for stage_config, folder in runs:
            announce(f"Stage {stage_config.stage}: {folder}")
            with only_training_in(folder):
                if not train_stage(stage_config, folder):
                    break
        return
    if FLAGS.mode == "adopt":
        write_untrained(config, workdir, set_fields())
        return
    if recorded is not None:
        check_overrides(set_fields(), recorded, FLAGS.mode)
        config = with_distilled_sampling(config, recorded["diffusion"], set_fields())
        config = with_recorded_data_dir(config, recorded, set_fields(), workdir)
    if FLAGS.mode == "sample":
        shown = functools.partial(configured.shown_for, drawings=8, colorings=3)
        output = Path(FLAGS.output) if FLAGS.output else workdir / "sample"
        showcase(config, workdir, prepared(shown, config), output, FLAGS.checkpoint)
        return
    output = Path(FLAGS.output) if FLAGS.output else workdir / "evaluation"
    others = [Path(folder) for folder in FLAGS.compare]
    examples = prepared(configured.held_out_for, config)
    evaluate(config, workdir, examples, output, canny, others, FLAGS.checkpoint)


if __name__ == "__main__":
    define_flags()
    run_cli(main)
