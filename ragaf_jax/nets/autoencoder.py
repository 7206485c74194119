"""Images to latents and back."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray


@runtime_checkable
class Autoencoder(Protocol):
    """The map between images in [−1, 1] and the latents of the diffusion.

    Attributes:
      downscale: image side divided by latent side.
      channels: channels of a latent.
    """

    @property
    def downscale(self) -> int: ...

    @property
    def channels(self) -> int: ...

    def init(self, rng: PRNGKeyArray) -> Any:
        """Initial float32 parameters, or {}."""
        ...

    def encode(
        self, params: Any, image: Float[Array, "b s1 s2 3"], rng: Key[Array, " b"] | None = None
    ) -> Float[Array, "b h w c"]:
        """Latents of images: sampled with a key per example, or the mode without `rng`."""
        ...

    def decode(self, params: Any, latents: Float[Array, "b h w c"]) -> Float[Array, "b s1 s2 3"]:
        """The image, not clipped."""
        ...


@dataclass(frozen=True)
class HaarAutoencoder:
    """The orthonormal Haar transform (Haar 1910) packed into channels: exact, without parameters.

    Every level replaces 2×2 cells by (a+b+c+d)/2 and three differences, for all channels of the
    previous level (a full wavelet packet). Latents have `2^levels` times smaller sides and
    3·4^levels channels. An orthonormal map preserves white noise and distances, so the loss on
    latents equals that on pixels. `params` and `rng` are ignored: an image has one latent.
    """

    levels: int = 2

    @property
    def downscale(self) -> int:
        """2^levels."""
        return 2**self.levels

    @property
    def channels(self) -> int:
        """3·4^levels."""
        return 3 * 4**self.levels

    def init(self, rng: PRNGKeyArray) -> Any:
        """{}, for no parameters."""
        del rng
        return {}

    def encode(
        self, params: Any, image: Float[Array, "b s1 s2 3"], rng: Key[Array, " b"] | None = None
    ) -> Float[Array, "b h w c"]:
        """Coefficients; raises ValueError if a side is not a multiple of `downscale`."""
        del params, rng
        if any(side % self.downscale for side in image.shape[1:3]):
            sides = image.shape[1:3]
            raise ValueError(f"the image is {sides}, expected multiples of {self.downscale}")
        for _ in range(self.levels):
            image = _analyse(_analyse(image, 1), 2)
        return image

    def decode(self, params: Any, latents: Float[Array, "b h w c"]) -> Float[Array, "b s1 s2 3"]:
        """The inverse, which is the transpose."""
        del params
        for _ in range(self.levels):
            latents = _synthesise(_synthesise(latents, 2), 1)
        return latents


def _analyse(x: Float[Array, "b h w c"], axis: int) -> Float[Array, "b h2 w2 c2"]:
    """Halves `axis`; channels become the sums of neighbours over √2, then their differences."""
    first, second = (x[:, i::2] if axis == 1 else x[:, :, i::2] for i in range(2))
    return jnp.concatenate([first + second, first - second], axis=-1) * 0.5**0.5


def _synthesise(x: Float[Array, "b h w c"], axis: int) -> Float[Array, "b h2 w2 c2"]:
    total, difference = jnp.split(x * 0.5**0.5, 2, axis=-1)
    pairs = jnp.stack([total + difference, total - difference], axis=axis + 1)
    shape = list(total.shape)
    shape[axis] *= 2
    return pairs.reshape(shape)
