"""Runs `ragaf_jax.sample` and `Pipeline` some hundred times in one process, with wrong inputs.

    python tests/support/hostile_commands.py <workdir of Stage 1> <of Stage 2> <an empty folder>

Prints the end of each run as JSON: "sampled", the sentence of an error, or an unexpected exception.
"""

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from hostile_files import hostile_files

from ragaf_jax import errors, sample
from ragaf_jax.sampling import outputs
from ragaf_jax.sampling.options import OptionArguments
from ragaf_jax.sampling.pipeline import Pipeline

FLAGS = flags.FLAGS
NUMBERS = (
    *("steps", "guidance", "sketch_guidance", "sketch_strength", "guidance_until", "strength"),
    "neck_splits",
)
# Entries of edited metadata.json files.
ENTRIES = (
    *({"seed": [1]}, {"steps": {}}, {"prompt": ["\ud800"]}, {"region_prompts": {"x": 1}}),
    *({"sketch": "/dev/zero"}, {"sketch": "a\0b"}, {"merge": [[]]}, {"labels": 3}),
    *({"stage1": 5}, {"neck_splits": None}, {"sampler": "plms"}),
    {"control_networks": [3], "controls": [3]},
    {"control_networks": [{"where": "x", "sha256": "1"}], "controls": [{"strength": "a"}]},
    {"loras": [{"path": 3, "unet": "a", "text": None, "sha256": 5}]},
    *({"loras": 5}, {"loras": [5]}, {"embeddings": 5}, {"image_size": "x"}),
    *({"region_prompts": {"1": None}}, {"control_networks": None, "loras": None, "vae": None}),
)
ARGUMENTS = (
    *("sketch", "prompt", "region_prompts", "negative_prompt", "seed", "count", "image"),
    *(
        "region_negative_prompts",
        "control_images",
        "width",
        *OptionArguments.__annotations__,
        "nothing",
    ),
)
GIVEN: tuple[Any, ...] = (
    *(-1, 5, 2.5, float("nan"), float("inf"), 10**30, "", "a", b"a", [], ["a"], [5], (None,)),
    *({}, {"a": 1}, {3: 4}, {"strength": "a"}, [{"end": None}], object(), np.zeros(2)),
    *(np.array(["ddim", "2"]), np.zeros((0, 4), np.uint8), Path("none.png"), sum, {5}),
)
CRASH = "not caught:"
QUICK = "--steps=2", "--upscale=32"  # of every command; the images are of 16 px
VALUES = "nan", "-inf", "-1", "1e39", "abc", ""


def commands(files: dict[str, Path], folder: Path) -> dict[str, list[str]]:
    """The flags of every command, by their fault."""
    good, prompt = f"--sketch={files['whole.png']}", "--prompt=a house"
    settings = [f"--{name}={value}" for name in NUMBERS for value in VALUES]
    settings += [f"--seed={value}" for value in ("-1", "4294967296", "1e3", "x", "")]
    settings += [f"--count={value}" for value in ("0", "-3", "1000000000", "nan")]
    settings += ["--sampler=plms", "--stages=3", "--dtype=int8", "--nothing=1", "word"]
    region_prompts = [
        "77=red",
        "-1=red",
        "x=red",
        "0=",
        "=red",
        "0",
        "0= ",
        f"{10**30}=red",
        "0=red red red",
    ]
    region_prompts += ["0=" + "red " * 5000, "0=\ud800", "\x00=red"]
    edits = [[f"--region={text}"] for text in region_prompts] + [
        ["--region=0=red", "--region=0=top"]
    ]
    groups = "0", "0,0", "0,99", "a,b", "", "0,1,1", "-1,0", "0;1", f"0,{10**30}"
    edits += [[f"--merge={group}"] for group in groups]
    edits += [[f"--labels={path}"] for path in (files["text.png"], folder / "none.png")]
    edits += [[f"--image={path}"] for path in (files["nan.tiff"], files["truncated.jpg"])]
    prompts = (
        "",
        " ",
        "house " * 10_000,
        "\x1b[31mred\x07\r\n\t",
        "\u202ehouse",
        "🏠" * 999,
        "\ud800",
    )
    records = [files["text.png"], files["whole.png"], folder, folder / "none", "/dev/zero"]
    for i, entries in enumerate(({}, *ENTRIES)):
        records.append(folder / f"record{i}.json")
        records[-1].write_text(
            json.dumps({"prompt": "a", "sketch": str(files["whole.png"])} | entries)
        )
    return {
        **{f"sketch {name}": [f"--sketch={path}", prompt] for name, path in files.items()},
        "sketch none": ["--sketch=/nowhere/\x07sketch.png", prompt],
        "sketch of a device": ["--sketch=/dev/zero", prompt],
        "no prompt": [good],
        **{f"prompt {text[:20]!r}": [good, f"--prompt={text}"] for text in prompts},
        **{f"setting {text}": [good, prompt, text] for text in settings},
        **{f"region {text}"[:40]: [good, prompt, *text] for text in edits},
        **{f"from {path}": [f"--from={path}"] for path in records},
        "output is a file": [good, prompt, f"--output={files['text.png']}"],
        "output below a file": [good, prompt, f"--output={files['text.png']}/out"],
        "output has other things": [good, prompt, f"--output={files['text.png'].parent}"],
        "output of a long name": [good, prompt, f"--output={folder / ('x' * 300)}"],
        "output in proc": [good, prompt, "--output=/proc/out"],
    }


def run(given: list[str], output: Path) -> str:
    """The end of a command."""
    if not any(flag.startswith("--output=") for flag in given):
        given = [*given, f"--output={output}"]
    for name in FLAGS:
        FLAGS[name].unparse()
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            argv = errors._parse_flags(["sample", *QUICK, *given])
            sample.main(argv)
        except errors.UserError as error:
            return str(error)
        except SystemExit:
            return said.getvalue().strip().removeprefix("error: ")
        except OSError as error:
            if error.errno not in errors._FILE_ERRORS:
                return f"{CRASH} {error!r}"
            return str(error)
        except Exception as error:
            return f"{CRASH} {error!r}"
    return "sampled"


def call(pipeline: Pipeline, **given: Any) -> str:
    """The end of a call of a pipeline."""
    try:
        pipeline(**{"prompt": "a house", "steps": 2, **given})
    except errors.UserError as error:
        return str(error)
    except Exception as error:
        return f"{CRASH} {error!r}"
    return "sampled"


def main() -> None:
    """Runs all."""
    stage1, stage2, folder = (Path(argument) for argument in sys.argv[1:])
    sample.define_flags()
    pipeline = Pipeline.restore(stage1, stage2)
    sample.from_flags.restore_pipeline = lambda **_: pipeline
    curves: list[np.ndarray] = []
    fusion_curves = outputs.fusion_curves

    def drawn_once(*given: Any) -> np.ndarray:
        """Matplotlib takes as long as the rest of a run."""
        if not curves:
            curves.append(fusion_curves(*given))
        return curves[0]

    outputs.fusion_curves = drawn_once
    (folder / "files").mkdir()
    files = hostile_files(folder / "files")
    stages = [f"--stage1={stage1}", f"--stage2={stage2}"]
    ends = {}
    for i, (name, given) in enumerate(commands(files, folder).items()):
        output = folder / f"out{i}"
        ends[name] = run([*stages, *given], output)
        if ends[name] != "sampled" and output.exists():
            ends[name] = f"{CRASH} left {output} behind: {ends[name]}"
    page = pipeline.page(files["whole.png"])
    for name in ARGUMENTS:
        for i, value in enumerate(GIVEN):
            ends[f"call {name}={value!r:.40} {i}"] = call(pipeline, **{"sketch": page, name: value})
    ends["and at last"] = run(
        [*stages, f"--sketch={files['whole.png']}", "--prompt=a"], folder / "z"
    )
    print(json.dumps(ends))


if __name__ == "__main__":
    main()
