"""Which tests are likely to notice a fault in a module: those that import it."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path


@functools.cache
def imported(file: Path) -> set[str]:
    """The names of all modules that a file may import, at any depth of its code."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
    return found


def nearest_tests(root: Path, path: str) -> Iterator[list[str]]:
    """The test files of a module by distance, each distance with the likeliest killers first."""
    files = {file: imported(file) for file in sorted(root.rglob("*.py"))}
    tests = [
        file for file in files if file.name.startswith("test_") and root / "tests" in file.parents
    ]
    module = Path(path).with_suffix("").parts
    package = module[1] if module[0] == "ragaf_jax" else module[0]
    named = {file for file in tests if module[-1] in file.stem and package in file.parts}
    users = {".".join(module)}
    seen: set[Path] = set()
    for chosen in (named, set()):
        near = chosen | {file for file in tests if files[file] & users}
        order = sorted(
            near - seen,
            key=lambda file: (file not in named, package not in file.parts, len(files[file]), file),
        )
        seen |= near
        yield [str(file.relative_to(root)) for file in order]
        # Helpers of the tests are imported by their bare names.
        importing = [file for file in files if files[file] & users and file not in tests]
        users = {".".join(file.relative_to(root).with_suffix("").parts) for file in importing}
        users |= {file.stem for file in importing if root / "tests" in file.parents}
