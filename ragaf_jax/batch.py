"""The inputs of training and evaluation steps, and the ground truth of evaluation."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jraph
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8

Array = jax.Array | np.ndarray
T = TypeVar("T")

# Images of several sizes: an array of objects, with an array per example. It is indexed, sliced and
# concatenated as an array of images of one size is.
PerExample = Shaped[np.ndarray, " b"]
Images = UInt8[np.ndarray, "b _ _ 3"] | PerExample


class Text(NamedTuple):
    """B rows of T tokens for the text encoder, with one or several texts per row.

    A row is one window of the encoder's length, or several windows side by side, which are encoded
    alone. Each of several windows has its own start and end tokens, and tokens of one text only.

    Attributes:
      tokens: token ids; -1 selects a vector of `vectors`.
      mask: True on tokens of a text, False on padding.
      ids: the text of each token, in rows of several texts: 0 for the first text and, in one
        window, padding. Texts do not attend to each other. None: one text per row.
      states: the text encoder's states of `tokens`; None before they are computed.
      weights: factor on each state; None: 1.
      vectors: token embeddings of textual inversions, where `tokens` is -1; None: there are none.
      skip: the number of the encoder's last layers to skip; None: as the encoder is configured.
      tokens_2: ids of SDXL's second encoder; None: `tokens`, with "!" for the end
        tokens that pad a window, see `nets.sdxl_text.second_tokens`.
      pooled: SDXL's pooled text, computed with `states`.
    """

    tokens: Int[Array, "b t"]
    mask: Bool[Array, "b t"]
    ids: Int[Array, "b t"] | None = None
    states: Float[Array, "b t d"] | None = None
    weights: Float[Array, "b t"] | None = None
    vectors: Float[Array, "b t d"] | None = None
    skip: Int[Array, " b"] | None = None
    tokens_2: Int[Array, "b t"] | None = None
    pooled: Float[Array, "b p"] | None = None


class Batch(NamedTuple):
    """B examples of H × W pixels, with R padded regions and E padded edges.

    A batch of training has one size. In held-out examples of several sizes `image`, `sketch`,
    `labels` and latents are `PerExample`; see `by_size`.

    Attributes:
      image: the target, in [-1, 1]; None with cached latents.
      sketch: in [0, 1], **ink 1 on black** as for scribble and lineart ControlNets, equal in all
        three channels.
      labels: region 0 … n-1 of each pixel.
      graph: the regions' graph, padded by jraph's convention: `nodes` f32[B, R, F], `edges`
        f32[B, E, Fe], `senders` and `receivers` i32[B, E], `n_node` = [n, R - n] and `n_edge` =
        [e, E - e] per example. The second graph of each pair is the padding.
      text: the captions, with cached states where there are any.
      latent_mean, latent_std: the cached distribution of the image's scaled latents, or None.
      sizes: px: height and width of the original image; top and left of its part in the target
        size's scale; height and width of the target. SDXL reads them; see `AddedConditions`.
    """

    image: Float[Array, "b H W 3"] | None
    sketch: Float[Array, "b H W 3"]
    labels: Int[Array, "b H W"]
    graph: jraph.GraphsTuple
    text: Text
    latent_mean: Float[Array, "b h w c"] | None = None
    latent_std: Float[Array, "b h w c"] | None = None
    sizes: Float[Array, "b 6"] | None = None


@runtime_checkable
class BatchIterator(Protocol):
    """An endless iterator over batches that can be resumed at any batch.

    `get_state` returns a JSON-compatible dictionary. `set_state` with it resumes an iterator with
    the same arguments. `keys` returns the record keys of batch `index`, counted from 0 at the start
    of the run, whatever the position of the iterator.
    """

    def __next__(self) -> Batch: ...

    def get_state(self) -> dict[str, Any]: ...

    def set_state(self, state: dict[str, Any]) -> None: ...

    def keys(self, index: int) -> list[str]: ...


def stacked(examples: Sequence[T]) -> T:
    """Batches, graphs or other trees of equal shapes, stacked along a new leading axis."""
    return jax.tree.map(lambda *arrays: np.stack(arrays), *examples)


def of_any_size(examples: Sequence[T]) -> T:
    """`stacked`, where images may differ in size: these are `PerExample`."""
    return jax.tree.map(lambda *arrays: _rows(arrays), *examples)


def _rows(arrays: Sequence[np.ndarray | np.generic]) -> np.ndarray:
    if len({array.shape for array in arrays}) == 1:
        return np.stack(arrays)
    result = np.empty(len(arrays), object)
    for i, array in enumerate(arrays):
        result[i] = array
    return result


def by_size(examples: T) -> list[tuple[Int[np.ndarray, " _"], T]]:
    """The examples of each size of image, with their indices.

    Args:
      examples: batches or other trees of arrays [b, …], some of them perhaps `PerExample`.

    Returns:
      For each size, in the order of its first example, the indices and the examples, whose arrays
      are stacked. Examples of one size are returned as they are.
    """
    leaves = jax.tree.leaves(examples)
    shapes = [image.shape for leaf in leaves if leaf.dtype == object for image in leaf]
    if not shapes:
        return [(np.arange(len(leaves[0])), examples)]
    shapes = shapes[: len(leaves[0])]  # images, sketches and latents have the same order of sizes
    groups = []
    for shape in dict.fromkeys(shapes):
        indices = np.flatnonzero([each == shape for each in shapes])
        some = jax.tree.map(lambda x, i=indices: x[i], examples)
        groups.append((indices, jax.tree.map(_dense, some)))
    return groups


def _dense(leaf: Array) -> Array:
    return np.stack(list(leaf)) if leaf.dtype == object else leaf


def in_order(parts: Sequence[tuple[Int[np.ndarray, " _"], T]]) -> T:
    """The results of `by_size`'s groups, trees of arrays [n, …], in the order of the examples."""
    if len(parts) == 1:
        return parts[0][1]
    order = np.argsort(np.concatenate([indices for indices, _ in parts]))

    def joined(*leaves: Array) -> np.ndarray:
        rows = [row for leaf in leaves for row in np.asarray(leaf)]
        return _rows([rows[i] for i in order])

    return jax.tree.map(joined, *(part for _, part in parts))


def over_sizes(function: Callable[..., T], *examples: Any) -> T:
    """`function(*examples)` of the examples of each size; its arrays [n, …] in their order."""
    return in_order([(indices, function(*group)) for indices, group in by_size(examples)])


def in_chunks(batch: T, size: int) -> Iterator[tuple[T, slice]]:
    """Chunks of a batch or other arrays of examples, of one size, so that functions compile once.

    The last chunk overlaps the one before instead of being smaller. A batch of fewer than `size`
    examples is one chunk. Each chunk is yielded with the slice of its new examples.
    """
    count = len(jax.tree.leaves(batch)[0])
    size = min(size, count)
    for begin in range(0, count, size):
        first = min(begin, count - size)
        chunk = jax.tree.map(lambda x, first=first: x[first : first + size], batch)
        yield chunk, slice(begin - first, None)


def ink_on_black(sketch: UInt8[np.ndarray, "*b h w"]) -> Float[np.ndarray, "*b h w 3"]:
    """Converts ink 0 on paper 255 to ink 1 on black 0, the input of ControlNets for sketches."""
    ink = np.float32(1) - sketch[..., None].astype(np.float32) / np.float32(255)
    return np.repeat(ink, 3, axis=-1)


class Truth(NamedTuple):
    """Ground truth of B examples for evaluation, which is no input of the model.

    Images, sketches and labels are `PerExample` where sizes differ.

    Attributes:
      image_u8: the true image.
      sketch_u8: paper 255, ink 0.
      true_labels: 1 + the true part of each pixel, 0 outside parts.
      true_colors: palette index of each part's colour in the caption, -1 without one.
      captions: as text.
      keys: stable names of the records.
      true_phrases: characters [begin, end) of the caption that describe each part, -1 where
        unclear; None without part annotations.
      regions_found: number of regions before merging to `RegionConfig.max_regions`; None where it
        was not counted.
    """

    image_u8: Images
    sketch_u8: UInt8[np.ndarray, "b h w"] | PerExample
    true_labels: UInt8[np.ndarray, "b h w"] | PerExample
    true_colors: Int[np.ndarray, "b p"]
    captions: tuple[str, ...]
    keys: tuple[str, ...]
    true_phrases: Int[np.ndarray, "b p 2"] | None = None
    regions_found: Int[np.ndarray, " b"] | None = None
