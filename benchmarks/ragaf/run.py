"""Trains and evaluates variants of RAGAF.

    python -m benchmarks.ragaf.run                                # all: about 90 minutes on 2 cores
    python -m benchmarks.ragaf.run full without --seeds=0,1,2     # some, of three seeds
    python -m benchmarks.ragaf.run --recipe=openmoji              # the longer run: about 6 hours

All variants of a seed start from the same Stage 1 and train on the same examples in the same order
with the same noise. Workdirs are in --folder, where an interrupted command resumes; results go to
benchmarks/ragaf/results/<recipe>, and `benchmarks.ragaf.report` prints them.
"""

import subprocess
import sys
from pathlib import Path

from absl import flags
from PIL import Image

from benchmarks.machine import cpu_model, versions
from benchmarks.ragaf.report import results_folder
from benchmarks.ragaf.score import Images, score
from benchmarks.ragaf.variants import VARIANTS, changes_of, parameters
from benchmarks.report import write_json
from benchmarks.timing import ROOT
from configs import stage2
from ragaf_jax.batch import Truth
from ragaf_jax.errors import UserError, nearest, run_cli
from ragaf_jax.figures.contact_sheet import SheetRow, contact_sheet
from ragaf_jax.runtime.compilation_cache import keep_compiled
from ragaf_jax.runtime.heap import keep_freed_memory
from ragaf_jax.training.adopt import with_fields

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_enum(
        "recipe", "quickstart", ["quickstart", "openmoji"], "configs/stage1.py:<recipe>."
    )
    flags.DEFINE_list("seeds", ["0"], "Seeds; each trains both stages.")
    flags.DEFINE_string("folder", "runs/ragaf", "Folder of data and workdirs.")
    flags.DEFINE_integer("examples", 144, "Number of test examples.", lower_bound=2)
    flags.DEFINE_multi_string(
        "set", [], "A field of both stages, such as train.steps=4, for a trial."
    )
    flags.DEFINE_string("results", None, "Folder of results; default: benchmarks/ragaf/results.")


SHOWN = 8  # examples on a variant's contact sheet


def command(*arguments: object) -> None:
    """Runs a command of this project from its root.

    Raises:
      UserError: it failed.
    """
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT)
    if done.returncode:
        line = " ".join(map(str, arguments))
        raise UserError(f"`{line}` ended with status {done.returncode}; its error is above.")


def prepared(folder: Path, regions: str, graph: str) -> Path:
    """The data with regions and graphs of these kinds."""
    data = folder / f"data_{regions}"
    command(
        *("-m", "input_pipeline.prepare", "--dataset=openmoji/recolor"),
        *(f"--data_dir={data}", f"--regions={regions}", f"--graph_kind={graph}"),
    )
    return data


def trained(stage: int, workdir: Path, seed: int, data: Path, changes: dict) -> Path:
    """The workdir of a fully trained stage."""
    fields = {"seed": seed, "data.dir": data, **changes}
    fields |= dict(field.split("=", 1) for field in FLAGS.set)
    command(
        *("main.py", f"--config=configs/stage{stage}.py:{FLAGS.recipe}", f"--workdir={workdir}"),
        *(f"--config.{name}={value}" for name, value in fields.items()),
    )
    return workdir


def contact(images: Images, truth: Truth) -> Image.Image:
    """Sketch, generated and true image of the first examples."""
    rows = [
        SheetRow((truth.sketch_u8[i], images[i], truth.image_u8[i]), truth.captions[i])
        for i in range(min(SHOWN, len(images)))
    ]
    return Image.fromarray(contact_sheet(rows, ("sketch", "image", "true")))


def measure(name: str, seed: int, folder: Path) -> None:
    """Trains one variant if necessary, evaluates it and writes the results."""
    variant = VARIANTS[name]
    plain = prepared(folder, VARIANTS["full"].regions, VARIANTS["full"].graph)
    stage1 = trained(1, folder / f"stage1-{seed}", seed, plain, {})
    data = prepared(folder, variant.regions, variant.graph)
    changes = changes_of(name, FLAGS.recipe)
    workdir = folder / f"{name}-{seed}"
    trained(2, workdir, seed, data, {**changes, "stage1": stage1})
    found, images, truth = score(stage1, workdir, data, FLAGS.examples, seed)
    contact(images, truth).save(workdir / "held_out.png")
    config = with_fields(stage2.get_config(FLAGS.recipe), changes)
    results = {
        "variant": name,
        "recipe": FLAGS.recipe,
        "seed": seed,
        "machine": cpu_model(),
        "versions": versions("jax", "flax"),
        "parameters": parameters(config),
        "set": FLAGS.set,
        **found,
    }
    write_json(results_folder(FLAGS.results, FLAGS.recipe) / f"{name}-{seed}.json", results)


def main(argv: list[str]) -> None:
    """Measures the named variants."""
    names = argv[1:] or list(VARIANTS)
    for name in names:
        if name not in VARIANTS:
            near = nearest(name, VARIANTS) or list(VARIANTS)
            raise UserError(f"There is no variant {name!r}; choose of {', '.join(near)}.")
    if FLAGS.set and not FLAGS.results:
        raise UserError(
            "--set is for trials, whose results must not replace the published ones; also give "
            "--results=<folder> and another --folder."
        )
    for field in FLAGS.set:
        if "=" not in field:
            raise UserError(f"--set is {field!r}; give <field>=<value>, such as train.steps=4.")
    keep_compiled()
    keep_freed_memory()
    folder = Path(FLAGS.folder).absolute() / FLAGS.recipe
    for seed in map(int, FLAGS.seeds):
        for name in names:
            print(f"== {name}, seed {seed}", flush=True)
            measure(name, seed, folder)


if __name__ == "__main__":
    define_flags()
    run_cli(main)
