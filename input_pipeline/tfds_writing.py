"""Two things in which TFDS 4.9 must write otherwise than it does."""

import sys
from typing import Any

from tensorflow_datasets.core import example_serializer, shuffle


class StableSerializer(example_serializer.ExampleSerializer):
    """Writes the features of an example in one order; TFDS's own differs between processes."""

    def serialize_example(self, example: dict[str, Any]) -> bytes:
        return self.get_tf_example(example).SerializeToString(deterministic=True)


def correct_tfds() -> None:
    """Makes TFDS write the same bytes in every process, and without TensorFlow at any size."""
    example_serializer.ExampleSerializer = StableSerializer
    # Beyond this many bytes TFDS shuffles in temporary files, which it opens with TensorFlow.
    shuffle.MAX_MEM_BUFFER_SIZE = sys.maxsize
