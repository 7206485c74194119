"""Three corrections of TFDS 4.9's writer."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorflow_datasets.core import example_serializer, shuffle

_MEMORY = 16 << 20  # bytes that TFDS shuffles in memory; more than that it shuffles in files
_HEADER = struct.Struct("=QQQ")  # upper and lower half of the key, number of bytes


class StableSerializer(example_serializer.ExampleSerializer):
    """Serialises features in a fixed order; TFDS's order differs between processes."""

    def serialize_example(self, example: dict[str, Any]) -> bytes:
        return self.get_tf_example(example).SerializeToString(deterministic=True)


class Bucket:
    """A file of records for TFDS's shuffler, whose own bucket needs TensorFlow.

    The file is open only during writes, because a thousand buckets reach the usual limit of open
    files.
    """

    def __init__(self, path: Path):
        """Does not create the file yet."""
        self._path, self._count, self.size = Path(path), 0, 0

    def __len__(self) -> int:
        return self._count

    def add(self, key: int, data: bytes) -> None:
        """Appends one record; `key` is of 128 bits."""
        with self._path.open("ab") as file:
            file.write(_HEADER.pack(key >> 64, key & (2**64 - 1), len(data)))
            file.write(data)
        self._count += 1
        self.size += len(data)

    def read_values(self) -> Iterator[tuple[int, bytes]]:
        """All records, in the order of `add`."""
        if not self._count:
            return
        with self._path.open("rb") as file:
            while header := file.read(_HEADER.size):
                upper, lower, size = _HEADER.unpack(header)
                yield upper << 64 | lower, file.read(size)

    def del_file(self) -> None:
        """Deletes the file if it exists."""
        self._path.unlink(missing_ok=True)


def correct_tfds() -> None:
    """Makes TFDS write the same bytes in every process, in bounded memory, without TensorFlow."""
    example_serializer.ExampleSerializer = StableSerializer
    shuffle._Bucket = Bucket
    shuffle.MAX_MEM_BUFFER_SIZE = _MEMORY
