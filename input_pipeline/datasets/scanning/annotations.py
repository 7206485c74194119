"""Captions and sketches of a folder's images, from tables and text files."""

import collections
import posixpath
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from input_pipeline.datasets.scanning.caption_tables import UTF16, Row, clean_caption, read_table
from input_pipeline.datasets.scanning.dataset_files import composed, is_image, join, printable, stem
from input_pipeline.datasets.scanning.items import Rejected

IMAGE_FOLDERS = ("image", "images")
SKETCH_FOLDERS = ("sketch", "sketches")
SIDECARS = (".txt", ".caption")
# Upper bound of a caption; other text files, such as logs, can be longer.
_MOST_BYTES = 100_000


class Annotations:
    """The annotations of images in tables and text files.

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
        """Adds the text files beside images."""
        sidecars = [
            (image, path)
            for image in sorted(filter(is_image, self.files))
            for extension in SIDECARS
            if (path := self._file(stem(image) + extension))
        ]
        for image, path in tqdm(sidecars, desc="captions", unit=" files", delay=1):
            try:
                with (root / path).open("rb") as file:
                    content = file.read(_MOST_BYTES + 1)
                if content.startswith(UTF16):
                    raise ValueError("is UTF-16; save it as UTF-8")
                if len(content) > _MOST_BYTES:
                    limit = f"{_MOST_BYTES:,} bytes"
                    raise ValueError(f"is longer than {limit}, which is too long for a caption")
                caption = clean_caption(content.decode("utf-8-sig", errors="surrogateescape"))
                if not caption:
                    raise ValueError("is empty")
            except OSError as error:
                problem = f"cannot be read ({error.strerror})"
            except ValueError as error:
                problem = str(error)
            else:
                self.captions[image][caption] = None
                continue
            self.rejected.append(Rejected(path, problem))
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

    def caption_in_other_case(self, image: str) -> str:
        """The same phrase for the text file of an image."""
        return self._in_other_case(*(stem(image) + extension for extension in SIDECARS))

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
