"""Which package may import which (docs/architecture.md), and what a run never imports."""

import ast
import importlib.util
import os
import subprocess
import sys
import textwrap
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FIRST_PARTY = ("main", "configs", "input_pipeline", "ragaf_jax")

# Files of ragaf_jax that everything may use, and that use only one another.
LEAVES = {
    f"ragaf_jax.{name}"
    for name in (
        "__version__",
        "batch",
        "caches",
        "errors",
        "folders",
        "framing",
        "image_modes",
        "images",
        "palette",
        "partition",
        "paths",
        "sketch_input",
        "tokenizer",
    )
}

# What `input_pipeline.cache` alone of its package runs.
NETWORKS = {"ragaf_jax.nets", "ragaf_jax.weights"}

# The packages of ragaf_jax (conditioning is a module), and what each may use besides itself and
# the leaves.
_NETWORKS = {"runtime", "graph", "nets", "diffusion", "weights"}
_RUN = _NETWORKS | {"checkpoints", "conditioning", "figures"}
DOWNWARD = {
    "graph": set(),
    "diffusion": set(),
    "figures": {"graph"},
    "runtime": set(),
    "nets": {"runtime", "graph"},
    "weights": {"nets"},
    "checkpoints": {"runtime"},
    "conditioning": {"nets"},
    # Validation and evaluation measure what training minimises.
    "losses": _RUN,
    "monitoring": _RUN,
    "training": _RUN | {"losses", "monitoring"},
    "sampling": _RUN,
    # Compiles the functions that training and sampling run.
    "planning": _RUN | {"losses", "training", "sampling"},
    "evaluation": _RUN | {"losses", "monitoring", "sampling"},
    "demo": _RUN | {"sampling"},
}


def sources() -> list[Path]:
    """Every first-party source file."""
    files = [ROOT / f"{name}.py" for name in FIRST_PARTY]
    folders = [path for name in FIRST_PARTY for path in (ROOT / name).rglob("*.py")]
    return sorted([*filter(Path.exists, files), *folders])


def module_name(path: Path) -> str:
    """`ragaf_jax/nets/unet.py` is `ragaf_jax.nets.unet`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST) -> set[str]:
    """The modules (or names in them) that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def package(name: str) -> str:
    """`ragaf_jax.nets.unet.UNet` is in `ragaf_jax.nets`."""
    return ".".join(name.split(".")[:2])


def allowed(importer: str, name: str) -> bool:
    """Whether the module `importer` may import `name`."""
    top, area, target = (
        name.split(".")[0],
        package(importer).removeprefix("ragaf_jax."),
        package(name),
    )
    if top not in FIRST_PARTY or package(importer) == target:
        return True
    if not importer.startswith("ragaf_jax"):
        below = ("ragaf_jax.graph", "ragaf_jax.figures", *LEAVES)
        if importer == "input_pipeline.cache" and target in NETWORKS:
            return True
        return {
            "main": True,
            "configs": top == "configs" or name.startswith("input_pipeline.datasets.registry"),
            "input_pipeline": top == "input_pipeline" or target in below,
        }[importer.split(".")[0]]
    if top != "ragaf_jax":
        return False
    if area in DOWNWARD and not importer.endswith("__main__"):
        return target in LEAVES | {f"ragaf_jax.{name}" for name in DOWNWARD[area]}
    if package(importer) in LEAVES | {"ragaf_jax"}:
        return target in LEAVES
    return True  # the entry points, ragaf_jax/sample.py, demo/__main__.py and their like


@pytest.mark.parametrize(
    ("importer", "name", "expected"),
    [
        ("ragaf_jax.nets.unet", "ragaf_jax.graph.padding", True),
        ("ragaf_jax.nets.unet", "ragaf_jax.diffusion.schedule", False),
        ("ragaf_jax.diffusion.loss", "ragaf_jax.errors.UserError", True),
        ("ragaf_jax.diffusion.loss", "ragaf_jax.nets.unet", False),
        ("ragaf_jax.graph.build", "ragaf_jax.nets", False),
        ("ragaf_jax.training.loop", "ragaf_jax.sampling.denoising", False),
        ("ragaf_jax.sampling.stages", "ragaf_jax.training.setup", False),
        ("ragaf_jax.sampling.stages", "ragaf_jax.checkpoints.reading", True),
        ("ragaf_jax.evaluation.evaluate", "ragaf_jax.training.step", False),
        ("ragaf_jax.monitoring.writers", "ragaf_jax.training.state", False),
        ("ragaf_jax.conditioning", "ragaf_jax.losses.objective", False),
        ("ragaf_jax.training.loop", "input_pipeline.loader", False),
        ("ragaf_jax.training.loop", "ragaf_jax.planning.plan", False),
        ("ragaf_jax.planning.plan", "ragaf_jax.training.step", True),
        ("ragaf_jax.runtime.targets", "ragaf_jax.nets.unet", False),
        ("ragaf_jax.sampling.pipeline", "ragaf_jax.demo.session", False),
        ("ragaf_jax.batch", "ragaf_jax.graph.padding", False),
        ("ragaf_jax.sample", "ragaf_jax.sampling.stages", True),
        ("ragaf_jax.sample", "configs.base", False),
        ("input_pipeline.loader", "ragaf_jax.graph.padding", True),
        ("input_pipeline.loader", "ragaf_jax.training.loop", False),
        ("input_pipeline.cache", "ragaf_jax.weights.load", True),
        ("input_pipeline.cache", "ragaf_jax.training.loop", False),
        ("input_pipeline.cached", "ragaf_jax.nets.vae", False),
        ("configs.stage1", "configs.base", True),
        ("configs.stage1", "ragaf_jax.errors", False),
        ("configs.photos", "input_pipeline.datasets.registry", True),
        ("configs.photos", "input_pipeline.datasets.photos", False),
    ],
)
def test_the_rule_itself(importer, name, expected):
    assert allowed(importer, name) is expected


def test_every_package_has_a_place_in_the_law():
    packages = {
        path.name for path in (ROOT / "ragaf_jax").iterdir() if (path / "__init__.py").exists()
    }
    assert packages == set(DOWNWARD) - {"conditioning"}


def test_no_packages_import_each_other():
    TopologicalSorter(DOWNWARD).prepare()  # raises CycleError


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_imports_run_downward(path):
    names = imported(ast.parse(path.read_text()))
    assert [name for name in sorted(names) if not allowed(module_name(path), name)] == []


def test_the_graph_package_is_cheap_to_import():
    """Data preparation starts a process per core: graph/__init__.py may not pull in JAX."""
    assert imported(ast.parse((ROOT / "ragaf_jax" / "graph" / "__init__.py").read_text())) == set()


def test_imports_bring_no_tensorflow_no_torch_and_no_flags(tmp_path):
    """Not even where they are installed: empty packages of these names stand in for them.

    Entry points have flags of the same names: defined at import, no two of them could be imported.
    """
    for name in ("tensorflow", "torch"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    script = """
        import importlib, sys
        from pathlib import Path
        for name in sys.argv[1:]:
            importlib.import_module(name)
            found = {"tensorflow", "torch"} & set(sys.modules)
            assert not found, f"{name} imports {found}"
        from ragaf_jax.monitoring.writers import TensorBoard  # imports more when it is made
        TensorBoard(Path("logs")).close()
        assert not {"tensorflow", "torch"} & set(sys.modules)
        from absl import flags
        defined = set(sys.argv[1:]) & set(flags.FLAGS.flags_by_module_dict())
        assert not defined, f"{defined} define flags when they are imported"
        assert not flags.FLAGS.is_parsed()
    """
    modules = [module_name(path) for path in sources()]
    if importlib.util.find_spec("gradio") is None:
        for name in ("app", "events", "layout", "style"):
            modules.remove(f"ragaf_jax.demo.{name}")  # what the extra "demo" is for
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-c", textwrap.dedent(script), *modules]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
