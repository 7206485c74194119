"""Captions and sketches of a folder's images, from tables and files beside them."""

import collections
import posixpath
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from input_pipeline.datasets.scanning.caption_tables import Row, read_table
from input_pipeline.datasets.scanning.dataset_files import composed, is_image, join, printable, stem
from input_pipeline.datasets.scanning.items import Rejected
from input_pipeline.datasets.scanning.sidecars import JSON, SIDECARS, read_sidecars

IMAGE_FOLDERS = ("image", "images")
SKETCH_FOLDERS = ("sketch", "sketches")


class Annotations:
    """The annotations of images in tables and in files beside them.

    Attributes:
      captions: of each image, without duplicates.
      sketches: the sketch of each image, if a row names one.
      rejected_images: images with rejected annotations.
      sketch_files: all files that rows name as sketches.
    """

    def __init__(self, files: dict[str, str], rejected: list[Rejected]):
        self.files, self.rejected = files, rejected
        # macOS decomposes é into e and an accent; tables mostly use one character.
        self._by_form = {composed(path): path for path in files}
        self._by_case = {composed(path).lower(): path for path in sorted(files)}
        self.captions: dict[str, dict[str, None]] = collections.defaultdict(dict)
        self.sketches: dict[str, str] = {}
        self.rejected_images: set[str] = set()
        self.sketch_files: set[str] = set()

    def read_table(self, root: Path, path: str) -> None:
        """Adds the rows of one table."""
        folder = posixpath.dirname(path)
        seen: dict[str, set[str]] = collections.defaultdict(set)
        for row in tqdm(read_table(root, path), desc=printable(path), unit=" rows", delay=1):
            image = self._find(folder, row.file, IMAGE_FOLDERS)
            sketch = self._find(folder, row.sketch, SKETCH_FOLDERS)
            if sketch:
                self.sketch_files.add(sketch)
            problem = row.problem or self._problem(row, folder, image, sketch)
            if not problem and set(row.captions) <= seen[image]:
                problem = "repeats an earlier row"
            elif not problem and sketch and self.sketches.setdefault(image, sketch) != sketch:
                problem = "names another sketch than an earlier row"
            if problem:
                self.rejected.append(Rejected(row.where, problem))
                self.rejected_images.add(image)
            else:
                seen[image].update(row.captions)
                self.captions[image].update(dict.fromkeys(row.captions))

    def read_sidecars(self, root: Path) -> None:
        """Adds the files of `sidecars` beside images."""
        images = sorted(filter(is_image, self.files))
        for image in tqdm(images, desc="captions", unit=" images", delay=1):
            paths = filter(None, (self._file(stem(image) + extension) for extension in SIDECARS))
            captions, rejected = read_sidecars(root, paths)
            if captions:
                self.captions[image].update(captions)
            if rejected:
                self.rejected += rejected
                self.rejected_images.add(image)

    def _find(self, folder: str, name: str, others: Iterable[str]) -> str:
        """The file that a table in `folder` names; "" if there is none."""
        if not name:
            return ""
        paths = (join(folder, join(other, name)) for other in ("", *others))
        return next(filter(None, (self._file(posixpath.normpath(path)) for path in paths)), "")

    def _file(self, path: str) -> str:
        """The file of this name in any Unicode form; "" if there is none."""
        return path if path in self.files else self._by_form.get(composed(path), "")

    def _in_other_case(self, *paths: str) -> str:
        """A phrase that names a file whose name differs only in case; "" if there is none."""
        absent = [composed(path).lower() for path in paths if not self._file(path)]
        found = next((self._by_case[path] for path in absent if path in self._by_case), None)
        return f", and the name of {printable(found)} differs in case" if found else ""

    def unread_caption(self, image: str) -> str:
        """A phrase that names a file beside an image without captions; "" if there is none."""
        files = [stem(image) + extension for extension in SIDECARS]
        if path := self._file(stem(image) + JSON):
            return f", and {printable(path)} has none"
        return self._in_other_case(*files)

    def _problem(self, row: Row, folder: str, image: str, sketch: str) -> str:
        """Why the files of a well-formed row cannot be used."""
        for name, found in ((row.file, image), (row.sketch, sketch)):
            if name and not found:
                path = posixpath.normpath(join(folder, name))
                outside = join(path, "").startswith("../")
                problem = "a file outside the dataset" if outside else "a missing file"
                return f"names {problem}: {printable(name)}{self._in_other_case(path)}"
            if name and not is_image(name):
                return f"names a file that is not an image: {printable(name)}"
        return ""
