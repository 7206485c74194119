"""Prints the results of `benchmarks.ragaf.run` as tables.

    python -m benchmarks.ragaf.report                    # of the quickstart's recipe
    python -m benchmarks.ragaf.report --recipe=openmoji

Prints Markdown. Accuracies are over parts of held-out examples; ± is the standard deviation over
seeds. Differences from the full model are paired by seed, example and part, with 95 % intervals
over examples (`ragaf_jax.evaluation.statistics.paired`).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks.ragaf.variants import VARIANTS
from benchmarks.report import Row, table
from ragaf_jax.errors import UserError, run_cli
from ragaf_jax.evaluation.statistics.paired import paired_difference

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("recipe", "quickstart", "The recipe.")
    flags.DEFINE_string("results", None, "Folder of results, instead of the recipe's.")


Result = Mapping[str, Any]
Hits = dict[tuple[int, str, int], float]


def results_folder(chosen: str | None, recipe: str) -> Path:
    """The folder of a recipe's results."""
    return Path(chosen) if chosen else Path(__file__).parent / "results" / recipe


def read_results(folder: Path) -> dict[str, list[Result]]:
    """Each variant's results, one per seed, in the order of `VARIANTS`.

    Raises:
      UserError: the full model's results are missing.
    """
    found = {
        name: [json.loads(path.read_text()) for path in sorted(folder.glob(f"{name}-[0-9]*.json"))]
        for name in VARIANTS
    }
    if not found["full"]:
        raise UserError(
            f"{folder} has no results of the full model; run: python -m benchmarks.ragaf.run full"
        )
    return {name: results for name, results in found.items() if results}


def rows_of(found: Mapping[str, Sequence[Result]]) -> list[Row]:
    """A row for Stage 1 alone, then one per variant."""
    full = found["full"]
    rows = [
        {"Stage 2": "– (Stage 1 alone)", "parameters, M": None}
        | scores([result["stage1"] for result in full])
        | difference(hits_by_part(full, "stage1"), hits_by_part(full, "stage2"))
    ]
    for name, results in found.items():
        row = {
            "Stage 2": VARIANTS[name].about,
            "parameters, M": round(results[0]["parameters"] / 1e6, 2),
        }
        row |= scores([result["stage2"] for result in results])
        if name == "full":
            row |= {"against RAGAF": None, "p": None}
        else:
            row |= difference(hits_by_part(results, "stage2"), hits_by_part(full, "stage2"))
        rows.append(row)
    return rows


def scores(of_seeds: Sequence[Result]) -> Row:
    """Means over examples or parts, then over seeds."""
    columns: dict[str, list[float]] = {"edge F1": [], "colour accuracy": [], "leaked": []}
    pointing = []
    for values in of_seeds:
        columns["edge F1"].append(np.mean(values["edge_f1"]))
        columns["colour accuracy"].append(np.mean(hits(values)))
        columns["leaked"].append(np.mean(np.add(values["near"], values["far"])))
        if values.get("attention_pointing"):  # undefined for the regions "ink" and "page"
            pointing.append(np.mean(values["attention_pointing"]))
    row: Row = {name: _spread(found) for name, found in columns.items()}
    row["points at its word"] = _spread(pointing) if pointing else None
    row["seeds"] = len(of_seeds)
    return row


def hits(values: Result) -> np.ndarray:
    """Whether each part has the requested colour."""
    return np.equal(values["requested"], values["obtained"])


def hits_by_part(results: Sequence[Result], stage: str) -> Hits:
    """`hits` by seed, example and part."""
    found = {}
    for result in results:
        values = result[stage]
        judged = zip(values["drawing"], values["part"], hits(values), strict=True)
        for drawing, part, hit in judged:
            found[result["seed"], values["keys"][drawing], part] = float(hit)
    return found


def difference(these: Hits, full: Hits) -> Row:
    """The difference from the full model on common parts."""
    common = sorted(these.keys() & full.keys())
    compared = paired_difference(
        [these[item] for item in common],
        [full[item] for item in common],
        [key for _, key, _ in common],
        rng=np.random.default_rng(0),
    )
    mean, low, high = compared.interval
    return {
        "against RAGAF": f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]",
        "p": f"{compared.p_value:.4f}",
    }


def _spread(values: Sequence[float]) -> str:
    mean = float(np.mean(values))
    return f"{mean:.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")


def main(argv: list[str]) -> None:
    """Prints the table."""
    del argv
    folder = results_folder(FLAGS.results, FLAGS.recipe)
    found = read_results(folder)
    print(table(rows_of(found)))


if __name__ == "__main__":
    define_flags()
    run_cli(main)
