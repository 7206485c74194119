"""What documents and progress bars show."""

import ast
import importlib
import importlib.util
import re
import subprocess
import sys

import pytest
from commands import ROOT, python_blocks

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_readme_links_every_document():
    readme = (ROOT / "README.md").read_text()
    for document in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{document.name}" in readme, document.name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_imports_is_there(document):
    """`tests/sampling/test_pipeline.py` runs the blocks that sample."""
    for block in python_blocks(document):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                missing = [
                    alias.name
                    for alias in node.names
                    if not hasattr(module, alias.name)
                    and not importlib.util.find_spec(f"{node.module}.{alias.name}")
                ]
                assert missing == [], ast.unparse(node)


def test_rates_have_a_space_before_their_unit():
    """tqdm writes "2.4images/s" otherwise."""
    units = [
        (path, keyword.value.value)
        for folder in ("ragaf_jax", "input_pipeline", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "unit" and isinstance(keyword.value, ast.Constant)
    ]
    assert len(units) > 20
    assert [found for found in units if not found[1].startswith(" ")] == []


@pytest.mark.parametrize(
    "command",
    [
        *("main", "input_pipeline/prepare", "input_pipeline/inspect"),
        *("ragaf_jax/sample", "ragaf_jax/export", "ragaf_jax/demo/__main__"),
    ],
)
def test_a_commands_help_has_room_on_a_terminal_of_80_columns(command):
    """`--help` prints the docstring; unless that is raw, the lines of a command run together."""
    text = ast.get_docstring(ast.parse((ROOT / f"{command}.py").read_text(encoding="utf-8")), False)
    assert [line for line in text.splitlines() if len(line) > 80] == []


STAGE_FLAGS = ("stage1", "stage2", "checkpoint", "dtype")
DATA_FLAGS = ("data_dir", "size", "recolorings", "graph_kind", "graph_k", "graph_radius")


@pytest.mark.parametrize(
    ("command", "shared", "sentence"),
    [
        ("ragaf_jax.sample", STAGE_FLAGS, "alone, it samples from noise or --image."),
        ("ragaf_jax.demo", STAGE_FLAGS, "alone, it starts from noise."),
        ("input_pipeline.prepare", DATA_FLAGS, "For single-file checkpoints, as config.init."),
        ("input_pipeline.inspect", DATA_FLAGS, "Folder tokenizer/ of a Stable Diffusion, instead"),
    ],
)
def test_help_lists_flags_that_two_commands_share(command, shared, sentence):
    """absl lists the flags that the command's own module defines or adopts."""
    shown = subprocess.run(
        [sys.executable, "-m", command, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert [flag for flag in shared if not re.search(rf"  --(\[no\])?{flag}:", shown.stdout)] == []
    assert sentence in " ".join(shown.stdout.split())


def test_the_architecture_names_every_module_with_its_first_sentence():
    """A reader finds a module by one table; the error is the line that is missing or outdated."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = {}
    for section in text.split("\n### ")[1:]:
        folder = section.split("`")[1].rstrip("/")
        listed |= {
            f"{folder}/{line.split('`')[1]}": line
            for line in section.splitlines()
            if line.startswith("| `")
        }
    expected = {}
    for package in ("ragaf_jax", "input_pipeline", "configs"):
        for path in (ROOT / package).rglob("*.py"):
            if path.name != "__init__.py":
                docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
                sentence = " ".join(docstring.split("\n\n")[0].split())
                name = path.relative_to(ROOT).as_posix()
                expected[name] = f"| `{path.name}` | {sentence} |"
    assert listed == expected
