"""Reads Parquet and Arrow files in batches of rows, in memory that does not grow with the file."""

import bisect
import collections
import itertools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

# A row group or record batch can be the whole file. Pages are read through a buffer of this size.
_BUFFER = 1 << 20  # bytes
_IMAGES = 8  # images that a reader decompresses at once
_READERS = 4  # open columns per thread: image and sketch of two files


def schema_of(file: Path) -> pa.Schema:
    """The columns of a file.

    Raises:
      OSError, pa.ArrowException: it is neither a Parquet nor an Arrow file, or is truncated.
    """
    if file.suffix.lower() == ".parquet":
        with pq.ParquetFile(file) as opened:
            return opened.schema_arrow
    with pa.memory_map(str(file)) as mapped:
        return _arrow(mapped).schema


def batches(
    file: Path, columns: Sequence[str], size: int, first: int = 0
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Batches of rows from that with row `first` on, each with the number of its first row.

    Args:
      file: ends in .parquet; otherwise it is an Arrow file or stream, as Hugging Face's
        `save_to_disk` writes.
      columns: names, of nested columns such as "image.bytes".
      size: rows per batch of Parquet files; Arrow's record batches are mapped, not read.
      first: a row, from 0.
    """
    if file.suffix.lower() == ".parquet":
        with pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False) as opened:
            starts = _group_starts(opened.metadata)
            group = bisect.bisect_right(starts, first) - 1
            groups = range(group, opened.num_row_groups)
            rows = opened.iter_batches(size, groups, list(columns), use_threads=False)
            yield from _numbered(rows, starts[group], first)
        return
    with pa.memory_map(str(file)) as mapped:
        reader = _arrow(mapped)
        if isinstance(reader, pa.RecordBatchFileReader):
            rows = map(reader.get_batch, range(reader.num_record_batches))
        else:
            rows = iter(reader)
        yield from _numbered(rows, 0, first)


def cell(file: Path, row: int, column: str) -> bytes | None:
    """The content of an image; None if it is null.

    Each thread keeps its place in the last files, so that increasing rows read each page once.

    Raises:
      OSError, pa.ArrowException, KeyError: the file was damaged or has no such row or column.
    """
    state = file.stat()
    key = (file, column, state.st_mtime_ns, state.st_size, state.st_ino)
    if not hasattr(_local, "readers"):
        _local.readers = collections.OrderedDict()
    # A reader whose file has an error is not kept.
    reader = _local.readers.pop(key, None) or _Reader(file, column)
    content = reader.read(row)
    _local.readers[key] = reader
    if len(_local.readers) > _READERS:
        _local.readers.popitem(last=False)
    return content


_local = threading.local()


class _Reader:
    """One column of a file, read forwards."""

    def __init__(self, file: Path, column: str):
        self._file, self._column = file, column
        parquet = file.suffix.lower() == ".parquet"
        self._starts = _group_starts(pq.read_metadata(file)) if parquet else [0]
        self._rows: Iterator[tuple[int, pa.RecordBatch]] = iter(())
        self._start = 0
        self._batch: pa.RecordBatch = None

    def read(self, row: int) -> bytes | None:
        """The content of a row; a row before the last one reads its row group again."""
        if self._batch is None or row < self._start or self._group(row) != self._group(self._start):
            self._rows = batches(self._file, [self._column], _IMAGES, row)
            self._start, self._batch = next(self._rows)
        while row >= self._start + self._batch.num_rows:
            self._start, self._batch = next(self._rows)
        name, _, nested = self._column.partition(".")
        value = self._batch.column(name)[row - self._start]
        if nested and value.is_valid:
            value = value[nested]
        return value.as_py() if value.is_valid else None

    def _group(self, row: int) -> int:
        return bisect.bisect_right(self._starts, row)


def _group_starts(metadata: pq.FileMetaData) -> list[int]:
    """The first row of each row group."""
    counts = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
    return list(itertools.accumulate(counts, initial=0))[: max(metadata.num_row_groups, 1)]


def _numbered(
    rows: Iterator[pa.RecordBatch], start: int, first: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    for batch in rows:
        if start + batch.num_rows > first:
            yield start, batch
        start += batch.num_rows


def _arrow(mapped: pa.MemoryMappedFile) -> pa.RecordBatchFileReader | pa.RecordBatchStreamReader:
    try:
        return pa.ipc.open_file(mapped)
    except pa.ArrowInvalid:  # a stream has no footer
        mapped.seek(0)
        return pa.ipc.open_stream(mapped)
