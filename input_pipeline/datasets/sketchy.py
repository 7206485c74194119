"""The Sketchy database (Sangkloy et al. 2016, "The Sketchy Database"), as downloaded.

    info/testset.txt  info/invalid-*.txt                                 (the official lists)
    256x256/photo/tx_<12 digits>/<category>/<photo>.jpg
    256x256/sketch/tx_<12 digits>/<category>/<photo>-<k>.png

Several people sketched each photo. Each sketch is an example, and all examples of a photo are in
one split. Captions are templates with the category, or those of taggers in files beside the photo.
"""

import re
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from input_pipeline.datasets.scanning.dataset_files import (
    data_root,
    is_image,
    join,
    read_folder,
    stem,
)
from input_pipeline.datasets.scanning.items import Item, Rejected, Scan, first_problem
from input_pipeline.datasets.scanning.sidecars import SIDECARS, read_sidecars
from input_pipeline.datasets.scanning.splits import split_groups
from ragaf_jax.errors import UserError

# From its README: the rendering of the photos (whole, or the object's box plus 10 %) to which each
# rendering of the sketches is aligned. The default is the first one found.
PHOTO_OF = {
    "tx_000000000000": "tx_000000000000",
    "tx_000100000000": "tx_000100000000",
    "tx_000000000010": "tx_000000000000",
    "tx_000000000110": "tx_000000000000",
    "tx_000000001010": "tx_000000000000",
    "tx_000000001110": "tx_000000000000",
}

TEMPLATES = ("A photo of {}", "A photograph of {}", "A picture of {}", "An image of {}")

_SKETCH = re.compile(r"(?P<name>(?P<photo>.+)-\d+)\.png")
# A line of a list: "cat/n02121620_8-1.png", with or without the category and the extension.
_LISTED = re.compile(r"(?:.*[/\\])?(?P<name>.+?)(?:\.(?:jpg|png|svg))?", re.IGNORECASE)
# Categories without the article "a".
_NO_ARTICLE = frozenset({"armor", "bread", "eyeglasses", "scissors"})
# "An apple" and "an hourglass", but "a unicycle" and "a ewe".
_TAKES_AN = re.compile(r"hour|heir|(?!uni|use|ukulele|utensil|eu|ewe|one\b)[aeiou]")


def scan(root: Path, transform: str | None = None) -> Scan:
    """Finds every sketch with its photo.

    Args:
      root: the folder with `256x256/`, that folder itself, or one with `sketch/` and `photo/`.
      transform: the rendering of the sketches, one of `PHOTO_OF`; by default the first one found.

    Returns:
      One item per sketch. Its key is "<category>/<photo>-<k>", its group the photo's name. Photos
      in `testset.txt` are the test split; without that list, hashes of the photos' names define
      it. Sketches in an `invalid-*.txt` and photos without sketches are not used.

    Raises:
      UserError: the root is not this dataset, or it has too few usable sketches.
    """
    root = data_root(root)
    if root.name == "256x256":
        root = root.parent  # `info/` may be there
    base = "256x256" if (root / "256x256").is_dir() else ""
    tested, invalid = _official_lists(root, base)
    pairs, rejected = _pairs(root, *_renderings(root, base, transform))
    pairs = [pair for pair in pairs if not {pair.photo, pair.sketch.stem} & invalid]
    photos = {pair.photo for pair in pairs}
    splits = _splits(photos, tested, root, first_problem(rejected))
    captions = {category: captions_of(category) for category in {pair.category for pair in pairs}}
    items = [
        Item(
            key=f"{pair.category}/{pair.sketch.stem}",
            group=pair.photo,
            split=splits[pair.photo],
            image=pair.image,
            sketch=pair.sketch,
            captions=pair.captions or captions[pair.category],
            category=pair.category.replace("_", " "),
        )
        for pair in pairs
    ]
    held = ("validation",) if tested else ("validation", "test")
    return Scan(sorted(items), sorted(rejected), held)


def captions_of(category: str) -> tuple[str, ...]:
    """The captions of a category's photos, for example "A photo of an alarm clock"."""
    noun = noun_phrase(category.replace("_", " "))
    return tuple(template.format(noun) for template in TEMPLATES)


def noun_phrase(noun: str) -> str:
    """A noun with its article, such as "an alarm clock"."""
    if noun in _NO_ARTICLE:
        return noun
    return f"an {noun}" if _TAKES_AN.match(noun) else f"a {noun}"


class _Pair(NamedTuple):
    category: str
    photo: str
    image: Path
    sketch: Path
    captions: tuple[str, ...]  # in files beside the photo


def _renderings(root: Path, base: str, transform: str | None) -> tuple[str, str]:
    """The folders of the sketches and of their photos."""
    halves = {half: join(base, half) for half in ("sketch", "photo")}
    if not all((root / folder).is_dir() for folder in halves.values()):
        raise UserError(
            f"The folder {root} holds neither 256x256/ nor sketch/ and photo/; name the one in "
            "which Sketchy's rendered_256x256.7z was unpacked."
        )
    found = {half: read_folder(root, folder).folders for half, folder in halves.items()}
    complete = [
        sketch
        for sketch, photo in PHOTO_OF.items()
        if sketch in found["sketch"] and photo in found["photo"]
    ]
    chosen = transform or next(iter(complete), None)
    if chosen not in complete:
        raise UserError(
            f"Sketchy's rendering {chosen or 'tx_…'} is not in {root / base} with both its "
            f"sketches and its photos; available: {', '.join(complete) or 'none'}."
        )
    return f"{halves['sketch']}/{chosen}", f"{halves['photo']}/{PHOTO_OF[chosen]}"


def _pairs(root: Path, sketches: str, photos: str) -> tuple[list[_Pair], list[Rejected]]:
    pairs: list[_Pair] = []
    photo_of_file: dict[str, str] = {}
    of_sketches, of_photos = read_folder(root, sketches), read_folder(root, photos)
    rejected = of_sketches.rejected + of_photos.rejected
    for category in tqdm(of_sketches.folders, desc="scanning", unit=" categories", delay=1):
        category_sketches = read_folder(root, f"{sketches}/{category}")
        rejected += category_sketches.rejected
        images: dict[str, Path] = {}
        if category in of_photos.folders:
            category_photos = read_folder(root, f"{photos}/{category}")
            rejected += category_photos.rejected
            for name, file in category_photos.files.items():
                if not is_image(name) or photo_of_file.setdefault(file, name) == name:
                    images[name] = root / photos / category / name
                else:  # one photo under two names could be in two splits
                    path = f"{photos}/{category}/{name}"
                    rejected.append(Rejected(path, f"is a link to {file}, which is already used"))
        captions, unusable = _captions_beside(root, images)
        rejected += unusable
        for name in filter(is_image, category_sketches.files):
            path = f"{sketches}/{category}/{name}"
            match = _SKETCH.fullmatch(name)
            if match is None:
                rejected.append(Rejected(path, "is not named <photo>-<number>.png"))
            elif (photo := f"{match['photo']}.jpg") not in images:
                missing = f"{photos}/{category}/{photo}"
                rejected.append(Rejected(path, f"has no photo: {missing} is missing"))
            else:
                sketch = root / path
                pairs.append(
                    _Pair(category, match["photo"], images[photo], sketch, captions[photo])
                )
    return pairs, rejected


def _captions_beside(
    root: Path, files: dict[str, Path]
) -> tuple[dict[str, tuple[str, ...]], list[Rejected]]:
    """The captions in files beside each photo of a folder, and unusable files."""
    captions: dict[str, tuple[str, ...]] = {}
    rejected: list[Rejected] = []
    for name in filter(is_image, files):
        beside = [file for extension in SIDECARS if (file := stem(name) + extension) in files]
        paths = [files[file].relative_to(root).as_posix() for file in beside]
        found, unusable = read_sidecars(root, paths)
        captions[name] = tuple(found)
        rejected += unusable
    return captions, rejected


def _official_lists(root: Path, base: str) -> tuple[set[str], set[str]]:
    """The photos of the test split, and the sketches (or photos) to exclude."""
    tested: set[str] = set()
    invalid: set[str] = set()
    for folder in dict.fromkeys(("info", join(base, "info"))):
        if not (root / folder).is_dir():
            continue
        for name in read_folder(root, folder).files:
            if name == "testset.txt":
                tested |= _listed(root / folder / name)
            elif name.startswith("invalid-") and name.endswith(".txt"):
                invalid |= _listed(root / folder / name)
    return tested, invalid


def _listed(path: Path) -> set[str]:
    lines = map(str.strip, path.read_text("utf-8-sig", errors="replace").splitlines())
    return {match["name"] for line in lines if (match := _LISTED.fullmatch(line))}


def _splits(photos: set[str], tested: set[str], root: Path, problem: str) -> dict[str, str]:
    if not tested:
        return split_groups(photos, problem=problem)
    test = dict.fromkeys(photos & tested, "test")
    if not test:
        raise UserError(
            f"None of the {len(photos)} photos in {root} is among the {len(tested)} of "
            "info/testset.txt; delete that list to split by the photos' names."
        )
    untested = ", because testset.txt contains all" if photos <= tested else problem
    return test | split_groups(photos - tested, held=("validation",), problem=untested)
