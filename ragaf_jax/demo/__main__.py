r"""Serves the web page.

    python -m ragaf_jax.demo --stage1=pretrained/openmoji/stage1 \
        --stage2=pretrained/openmoji/stage2

Only this machine can reach it unless --host is given. It needs an extra:
pip install -e '.[demo]'
"""

import contextlib
import importlib.util
import sys
from pathlib import Path

from absl import flags, logging

from ragaf_jax.errors import UserError, run_cli
from ragaf_jax.paths import PATH
from ragaf_jax.sampling.command import from_flags

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this command."""
    from_flags.define_stage_flags(checkpoint="newest")
    flags.adopt_module_key_flags(from_flags)  # else --help omits them
    flags.DEFINE_string(
        "host", "127.0.0.1", "Address of the server; 0.0.0.0 for access from other machines."
    )
    flags.DEFINE_integer("port", 7860, "Port of the server; 0 for any free port.", lower_bound=0)
    flags.DEFINE_integer("queue", 16, "Visitors who may wait; further visitors get an error.", 1)
    flags.DEFINE(
        PATH,
        "examples",
        None,
        "Folder of sketches, each with a .txt of its prompt; default: `examples` beside Stage 2's "
        "workdir, if it exists.",
    )


def main(argv: list[str]) -> None:
    """Restores the stages and serves until interrupted."""
    if argv[1:]:
        raise UserError(
            f"The argument {argv[1]!r} is not a flag; put values with spaces in quotes."
        )
    logging.set_verbosity(logging.WARNING)
    if FLAGS.stage1 is None and FLAGS.stage2 is None:
        raise UserError("No stage is given; give --stage1, --stage2 or both.")
    if importlib.util.find_spec("gradio") is None:
        raise UserError("The page needs gradio, which is missing; run pip install -e '.[demo]'.")
    from ragaf_jax.sampling.command.batch_requests import read_requests
    from ragaf_jax.sampling.lora.settings import parse_loras

    loras = parse_loras(FLAGS.lora)
    examples = [] if FLAGS.examples is None else read_requests(Path(FLAGS.examples), None)
    if FLAGS.examples is None and FLAGS.stage2 is not None:
        # The default folder may hold other files, which is no error.
        with contextlib.suppress(UserError):
            examples = read_requests(Path(FLAGS.stage2).absolute().parent / "examples", None)
    from ragaf_jax.demo.app import build
    from ragaf_jax.demo.style import CSS, THEME
    from ragaf_jax.runtime.heap import keep_freed_memory
    from ragaf_jax.sampling.pipeline import Pipeline

    keep_freed_memory()
    print("Loading the checkpoints …", file=sys.stderr)
    pipeline = Pipeline.restore(
        FLAGS.stage1,
        FLAGS.stage2,
        dtype=FLAGS.dtype,
        checkpoint=FLAGS.checkpoint,
        vae=FLAGS.vae,
        controls=from_flags.control_places(),
    )
    from_flags.load_embeddings(pipeline)
    page = build(pipeline, [(example.sketch, example.prompt) for example in examples], loras)
    page.queue(max_size=FLAGS.queue)
    try:
        page.launch(
            server_name=FLAGS.host,
            server_port=FLAGS.port or None,
            theme=THEME,
            css=CSS,
            max_file_size="20mb",
            footer_links=[],
            ssr_mode=False,
            show_error=False,
        )
    except OSError as error:
        raise UserError(
            f"The page cannot be served at {FLAGS.host}:{FLAGS.port} ({error}); choose another "
            "--port."
        ) from None


if __name__ == "__main__":
    define_flags()
    run_cli(main)
