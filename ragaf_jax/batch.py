"""The inputs of a training or evaluation step, and the ground truth of evaluation."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jraph
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

Array = jax.Array | np.ndarray
T = TypeVar("T")


class Text(NamedTuple):
    """B rows of T tokens for the text encoder, each one text or several.

    Attributes:
      tokens: token ids.
      mask: True on tokens of a text, False on padding.
      ids: the text of each token, where a row has several: 0 the first, and padding. No text
        attends to another. None: one text a row.
      states: the text encoder's states of `tokens`; None until they are computed.
    """

    tokens: Int[Array, "b t"]
    mask: Bool[Array, "b t"]
    ids: Int[Array, "b t"] | None = None
    states: Float[Array, "b t d"] | None = None


class Batch(NamedTuple):
    """B examples of side S, with R padded regions and E padded edges.

    Attributes:
      image: the picture to be made, in [-1, 1].
      sketch: its drawing in [0, 1], **ink 1 on black** (what scribble and lineart ControlNets
        expect), the same in all three channels.
      labels: the region 0 … n-1 that every pixel belongs to.
      graph: the regions' graph, padded by jraph's convention: `nodes` f32[B, R, F], `edges`
        f32[B, E, Fe], `senders` and `receivers` i32[B, E], `n_node` = [n, R - n] and `n_edge` =
        [e, E - e] per example. The second graph of each pair is the padding.
      text: the captions, with their states if these were computed beforehand.
      latent_mean, latent_std: where they were computed beforehand, the distribution of the image's
        latents as the autoencoder scales them; there is no `image` then.
    """

    image: Float[Array, "b s s 3"] | None
    sketch: Float[Array, "b s s 3"]
    labels: Int[Array, "b s s"]
    graph: jraph.GraphsTuple
    text: Text
    latent_mean: Float[Array, "b h w c"] | None = None
    latent_std: Float[Array, "b h w c"] | None = None


@runtime_checkable
class BatchIterator(Protocol):
    """An endless run of batches that can be stopped anywhere and taken up again.

    `get_state` is a dictionary that JSON can hold; after `set_state` with it, on an iterator made
    with the same arguments, the same batches follow. `keys` names the records of a batch, counted
    from 0 at the beginning of the run, wherever the iterator stands.
    """

    def __next__(self) -> Batch: ...

    def get_state(self) -> dict[str, Any]: ...

    def set_state(self, state: dict[str, Any]) -> None: ...

    def keys(self, index: int) -> list[str]: ...


def in_chunks(batch: T, size: int) -> Iterator[tuple[T, slice]]:
    """A batch, or other arrays of examples, in pieces of one size: a function is compiled once.

    The last piece begins earlier rather than being smaller, and a batch of fewer than `size`
    examples is one piece. With each piece comes the slice of its examples that no piece before had.
    """
    count = len(jax.tree.leaves(batch)[0])
    size = min(size, count)
    for begin in range(0, count, size):
        first = min(begin, count - size)
        piece = jax.tree.map(lambda x, first=first: x[first : first + size], batch)
        yield piece, slice(begin - first, None)


def ink_on_black(sketch: UInt8[np.ndarray, "*b s s"]) -> Float[np.ndarray, "*b s s 3"]:
    """Black ink 0 on paper 255 → what ControlNets for drawings expect: ink 1 on 0."""
    ink = np.float32(1) - sketch[..., None].astype(np.float32) / np.float32(255)
    return np.repeat(ink, 3, axis=-1)


class Truth(NamedTuple):
    """What the evaluation knows of B examples and the model is not told.

    Attributes:
      image_u8: the picture.
      sketch_u8: the drawing, paper 255, ink 0.
      true_labels: 1 + the true part of each pixel, 0 where there is none.
      true_colors: the palette index that the caption says of each part, -1 where it says nothing.
      captions: in words.
      keys: the records' stable names.
      true_phrases: the characters [begin, end) of the caption that are about each part, -1 where
        that is not sure; None where nothing is known of parts.
      regions_found: the regions of each drawing before those beyond `RegionConfig.max_regions` were
        merged; None where they were not counted.
    """

    image_u8: UInt8[np.ndarray, "b s s 3"]
    sketch_u8: UInt8[np.ndarray, "b s s"]
    true_labels: UInt8[np.ndarray, "b s s"]
    true_colors: Int[np.ndarray, "b p"]
    captions: tuple[str, ...]
    keys: tuple[str, ...]
    true_phrases: Int[np.ndarray, "b p 2"] | None = None
    regions_found: Int[np.ndarray, " b"] | None = None
