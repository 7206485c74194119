"""Captions of images in a folder, from tables and text files."""

import collections
import posixpath
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from input_pipeline.datasets import captions
from input_pipeline.datasets.scanning.items import Rejected
from input_pipeline.datasets.scanning.listing import composed, is_picture, join, printable, stem
from input_pipeline.datasets.scanning.tables import UTF16, Row, read_table

IMAGE_FOLDERS = ("image", "images")
SKETCH_FOLDERS = ("sketch", "sketches")
SIDECARS = (".txt", ".caption")
# No caption is longer than this, and a log file that is called a.txt may be.
_MOST_BYTES = 100_000


class Notes:
    """What tables and text files say of the pictures.

    Attributes:
      captions: of each picture, without repetition.
      sketches: the sketch of each picture whose row names one.
      blamed: pictures of which something else has been rejected already.
      drawn: everything that a row names as a sketch.
    """

    def __init__(self, files: dict[str, str], rejected: list[Rejected]):
        self.files, self.rejected = files, rejected
        # macOS writes é as e and an accent, tables mostly as one character.
        self._of_form = {composed(path): path for path in files}
        self._of_case = {composed(path).lower(): path for path in sorted(files)}
        self.captions: dict[str, dict[str, None]] = collections.defaultdict(dict)
        self.sketches: dict[str, str] = {}
        self.blamed: set[str] = set()
        self.drawn: set[str] = set()

    def read_table(self, root: Path, path: str) -> None:
        """Adds the rows of one table."""
        folder = posixpath.dirname(path)
        seen: dict[str, set[str]] = collections.defaultdict(set)
        for row in tqdm(read_table(root, path), desc=printable(path), unit=" rows", delay=1):
            picture = self._find(folder, row.file, IMAGE_FOLDERS)
            sketch = self._find(folder, row.sketch, SKETCH_FOLDERS)
            if sketch:
                self.drawn.add(sketch)
            problem = row.problem or self._problem(row, folder, picture, sketch)
            if not problem and set(row.captions) <= seen[picture]:
                problem = "repeats an earlier row"
            elif not problem and sketch and self.sketches.setdefault(picture, sketch) != sketch:
                problem = "names another sketch than an earlier row"
            if problem:
                self.rejected.append(Rejected(row.where, problem))
                self.blamed.add(picture)
            else:
                seen[picture].update(row.captions)
                self.captions[picture].update(dict.fromkeys(row.captions))

    def read_sidecars(self, root: Path) -> None:
        """Adds the text files that lie beside pictures."""
        sidecars = [
            (picture, path)
            for picture in sorted(filter(is_picture, self.files))
            for extension in SIDECARS
            if (path := self._file(stem(picture) + extension))
        ]
        for picture, path in tqdm(sidecars, desc="captions", unit=" files", delay=1):
            try:
                with (root / path).open("rb") as file:
                    content = file.read(_MOST_BYTES + 1)
                if content.startswith(UTF16):
                    raise ValueError("is UTF-16; save it as UTF-8")
                if len(content) > _MOST_BYTES:
                    raise ValueError(f"is longer than {_MOST_BYTES:,} bytes, so is no caption")
                caption = captions.clean(content.decode("utf-8-sig", errors="surrogateescape"))
                if not caption:
                    raise ValueError("is empty")
            except OSError as error:
                problem = f"cannot be read ({error.strerror})"
            except ValueError as error:
                problem = str(error)
            else:
                self.captions[picture][caption] = None
                continue
            self.rejected.append(Rejected(path, problem))
            self.blamed.add(picture)

    def _find(self, folder: str, name: str, others: Iterable[str]) -> str:
        """The file that a row of a table in `folder` means; "" if there is none."""
        if not name:
            return ""
        paths = [join(folder, name), *(join(join(folder, other), name) for other in others)]
        return next(filter(None, (self._file(posixpath.normpath(path)) for path in paths)), "")

    def _file(self, path: str) -> str:
        """The file of this name, in whichever Unicode form; "" if there is none."""
        return path if path in self.files else self._of_form.get(composed(path), "")

    def other_case(self, *paths: str) -> str:
        """A file that has one of these names but for the case, as a part of a sentence; or ""."""
        absent = [composed(path).lower() for path in paths if not self._file(path)]
        found = next((self._of_case[path] for path in absent if path in self._of_case), None)
        return f", and the name of {printable(found)} differs in case" if found else ""

    def caption_in_other_case(self, picture: str) -> str:
        """The like for the text file of a picture."""
        return self.other_case(*(stem(picture) + extension for extension in SIDECARS))

    def _problem(self, row: Row, folder: str, picture: str, sketch: str) -> str:
        """Why a row cannot be used that is fine in itself."""
        for name, found in ((row.file, picture), (row.sketch, sketch)):
            if name and not found:
                away = join(posixpath.normpath(join(folder, name)), "").startswith("../")
                what = "a file out of the data set" if away else "a missing file"
                other = self.other_case(posixpath.normpath(join(folder, name)))
                return f"names {what}: {printable(name)}{other}"
            if name and not is_picture(name):
                return f"names what is no picture: {printable(name)}"
        return ""
