"""CLIP (Radford et al. 2021): embeddings of images and texts; the text tower is `nets.text.clip`.

The parameter tree is that of transformers' `FlaxCLIPModel` without the temperature of the loss.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Shaped, UInt8
from PIL import Image

from ragaf_jax.batch import Images
from ragaf_jax.evaluation.networks.chunks import over_chunks
from ragaf_jax.nets.layers import Dense, parameter
from ragaf_jax.nets.text.clip import ClipTextConfig, Encoder, TextTransformer
from ragaf_jax.tokenizer import Tokenizer
from ragaf_jax.weights.load import Tree

# Mean and standard deviation of CLIP's training images, for pixels in [0, 1].
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class ClipVisionConfig:
    """The vision tower's fields of transformers' `config.json`; defaults are of ViT-B/32.

    Attributes:
      hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, hidden_act,
        layer_norm_eps: of the layers, as in `ClipTextConfig`.
      image_size: side of the input images, in pixels.
      patch_size: side of a patch; pixels beyond the last whole patch are ignored.
    """

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    image_size: int = 224
    patch_size: int = 32
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        _ = self.layers  # validates them
        if self.patch_size > self.image_size:
            raise ValueError(
                f"patch_size is {self.patch_size}, expected at most image_size {self.image_size}"
            )

    @property
    def layers(self) -> ClipTextConfig:
        """The layers' configuration; vocabulary and positions are unused."""
        return ClipTextConfig(
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            hidden_act=self.hidden_act,
            layer_norm_eps=self.layer_norm_eps,
        )


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """Both towers.

    Attributes:
      text, vision: the towers.
      projection_dim: width of the embeddings.
      eos_token_id: the token whose state is projected; 2, in files from before 2023, means the
        token with the highest id.
    """

    text: ClipTextConfig
    vision: ClipVisionConfig
    projection_dim: int = 512
    eos_token_id: int = 49407


class ClipModel(NamedTuple):
    """CLIP with its weights, see `weights.load_clip`."""

    config: ClipConfig
    params: Tree
    tokenizer: Tokenizer

    def embed_images(self, images: Images) -> Float32[np.ndarray, "n d"]:
        """Embeddings of n ≥ 1 sRGB images of any size, not normalised."""

        def embed(images: np.ndarray) -> Array:
            pixels = preprocess(images, self.config.vision.image_size)
            return embeddings(self.config, "images", self.params, pixels)

        return over_chunks(embed, images)

    def embed_texts(self, texts: Sequence[str]) -> Float32[np.ndarray, "n d"]:
        """Embeddings of n ≥ 1 texts, not normalised; long texts are truncated."""
        tokens, _ = self.tokenizer.encode(texts, self.config.text.max_position_embeddings)
        return over_chunks(functools.partial(embeddings, self.config, "texts", self.params), tokens)


def preprocess(
    images: UInt8[np.ndarray, "b h w 3"], side: int
) -> Float32[np.ndarray, "b {side} {side} 3"]:
    """CLIP's input from sRGB images: shorter side scaled to `side`, centre crop, whitening.

    Pillow's antialiased bicubic filter with rounding to bytes, as in CLIP's training.
    """
    height, width = images.shape[1:3]
    scaled_size = [int(side * length / min(height, width)) for length in (width, height)]
    left, top = ((length - side) // 2 for length in scaled_size)
    crops = np.empty((len(images), side, side, 3), np.float32)
    for i, image in enumerate(images):
        scaled = Image.fromarray(image).resize(scaled_size, Image.Resampling.BICUBIC)
        crops[i] = np.asarray(scaled)[top : top + side, left : left + side]
    mean, deviation = (np.array(x, np.float32) for x in (MEAN, DEVIATION))
    return (crops / np.float32(255) - mean) / deviation


@functools.partial(jax.jit, static_argnums=(0, 1))
def embeddings(
    config: ClipConfig, kind: str, params: Tree, inputs: Shaped[Array, "b ..."]
) -> Float[Array, "b d"]:
    """Embeddings of preprocessed "images" or tokenised "texts", not normalised."""
    with jax.default_matmul_precision("highest"):
        return Clip(config).apply({"params": params}, inputs, method=kind)


class Clip(nn.Module):
    """Both towers with their projections (Radford et al. 2021, fig. 3)."""

    config: ClipConfig

    def setup(self) -> None:
        width = self.config.projection_dim
        self.text_model = TextTransformer(self.config.text)
        self.vision_model = VisionTransformer(self.config.vision)
        self.text_projection = Dense(width, use_bias=False)
        self.visual_projection = Dense(width, use_bias=False)

    def __call__(
        self, pixels: Float[Array, "b s s 3"], tokens: Int[Array, "b t"]
    ) -> tuple[Float[Array, "b d"], Float[Array, "b d"]]:
        return self.images(pixels), self.texts(tokens)

    def images(self, pixels: Float[Array, "b s s 3"]) -> Float[Array, "b d"]:
        """Embeddings of preprocessed images."""
        return self.visual_projection(self.vision_model(pixels))

    def texts(self, tokens: Int[Array, "b t"]) -> Float[Array, "b d"]:
        """Embeddings of texts: the projected state of each text's first EOS token."""
        states, _ = self.text_model(tokens, None)
        eos = self.config.eos_token_id
        end = jnp.argmax(tokens if eos == 2 else tokens == eos, axis=-1)
        return self.text_projection(states[jnp.arange(len(tokens)), end])


class VisionTransformer(nn.Module):
    """The class token's state of a ViT (Dosovitskiy et al. 2021) with a norm before the layers."""

    config: ClipVisionConfig

    @nn.compact
    def __call__(self, pixels: Float[Array, "b s s 3"]) -> Float[Array, "b d"]:
        def norm(name: str) -> nn.LayerNorm:
            return nn.LayerNorm(epsilon=self.config.layer_norm_eps, name=name)

        x = norm("pre_layrnorm")(VisionEmbeddings(self.config, name="embeddings")(pixels))
        everywhere = jnp.zeros((1, 1, x.shape[1], x.shape[1]), x.dtype)
        x, _ = Encoder(self.config.layers, name="encoder")(x, everywhere)
        return norm("post_layernorm")(x[:, 0])


class VisionEmbeddings(nn.Module):
    """Embeddings of the class token and the patches, with positions."""

    config: ClipVisionConfig

    @nn.compact
    def __call__(self, pixels: Float[Array, "b s s 3"]) -> Float[Array, "b t d"]:
        width, patch = self.config.hidden_size, (self.config.patch_size,) * 2
        normal = nn.initializers.normal(0.02)
        conv = nn.Conv(
            width, patch, patch, "VALID", use_bias=False, kernel_init=normal, name="patch_embedding"
        )
        patches = conv(pixels).reshape(len(pixels), -1, width)
        token = parameter(self, "class_embedding", normal, (width,))
        tokens = jnp.broadcast_to(token, (len(pixels), 1, width))
        x = jnp.concatenate([tokens, patches], axis=1)
        position = nn.Embed(x.shape[1], width, embedding_init=normal, name="position_embedding")
        return x + position(jnp.arange(x.shape[1])[None])
