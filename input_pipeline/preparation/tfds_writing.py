"""Three corrections of how TFDS 4.9 writes."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorflow_datasets.core import example_serializer, shuffle

# Records wait for their place in memory up to here, then in files.
_MEMORY = 16 << 20
_HEAD = struct.Struct("=QQQ")  # the key's halves, and how many bytes follow


class StableSerializer(example_serializer.ExampleSerializer):
    """Writes the features of an example in one order; TFDS's own differs between processes."""

    def serialize_example(self, example: dict[str, Any]) -> bytes:
        return self.get_tf_example(example).SerializeToString(deterministic=True)


class Bucket:
    """Records on disk that are sorted when all are there; TFDS's own writes with TensorFlow.

    The file is open only while it is written to: there are a thousand of them, which is as many as
    many systems let a process have open.
    """

    def __init__(self, path: Path):
        """Creates no file yet."""
        self._path, self._count, self.size = Path(path), 0, 0

    def __len__(self) -> int:
        return self._count

    def add(self, key: int, data: bytes) -> None:
        """Appends one record; `key` is of 128 bits."""
        with self._path.open("ab") as file:
            file.write(_HEAD.pack(key >> 64, key & (2**64 - 1), len(data)))
            file.write(data)
        self._count += 1
        self.size += len(data)

    def read_values(self) -> Iterator[tuple[int, bytes]]:
        """All records, in the order in which they came."""
        if not self._count:
            return
        with self._path.open("rb") as file:
            while head := file.read(_HEAD.size):
                upper, lower, size = _HEAD.unpack(head)
                yield upper << 64 | lower, file.read(size)

    def del_file(self) -> None:
        """Removes the file, if there is one."""
        self._path.unlink(missing_ok=True)


def correct_tfds() -> None:
    """Makes TFDS write the same bytes in every process, in bounded memory, without TensorFlow."""
    example_serializer.ExampleSerializer = StableSerializer
    shuffle._Bucket = Bucket
    shuffle.MAX_MEM_BUFFER_SIZE = _MEMORY
