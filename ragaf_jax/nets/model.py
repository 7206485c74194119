"""The networks of a stage: text encoder, sketch branch, UNet and, in Stage 2, RAGAF."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph
from flax.typing import Dtype
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

from ragaf_jax.batch import Text
from ragaf_jax.framing import Sizes
from ragaf_jax.graph.features import EDGE_FEATURES, NODE_FEATURES
from ragaf_jax.nets.autoencoder import Autoencoder
from ragaf_jax.nets.control import ControlNet
from ragaf_jax.nets.kl_autoencoder import KlAutoencoder
from ragaf_jax.nets.lora import NETWORKS, LoraConfig, adapted, init_lora
from ragaf_jax.nets.ragaf import Ragaf, RagafTrace
from ragaf_jax.nets.regions import flat, halved, place, pool_regions, region_shares
from ragaf_jax.nets.text.clip import ClipText
from ragaf_jax.nets.text.sdxl import SdxlText
from ragaf_jax.nets.text.windows import encode_windows
from ragaf_jax.nets.unet import SIZES, AddedConditions, UNet, injection_sites
from ragaf_jax.partition import cast

Params = Mapping[str, Any]
Strength = float | Float[Array, ""] | Float[Array, "b r"]


class Regions(NamedTuple):
    """The regions of a batch: their graph, places and text tokens.

    Attributes:
      graph: padded region graphs with a leading batch axis.
      shares: S_l of every level l of the UNet, the finest first.
      active: 1 for examples with regions, 0 for those whose regions are dropped.
      allowed: the tokens that each region may attend to.
    """

    graph: jraph.GraphsTuple
    shares: tuple[Float[Array, "b _ r"], ...]
    active: Float[Array, " b"]
    allowed: Bool[Array, "b #r t"]


class Conditioning(NamedTuple):
    """The conditions of the images.

    Attributes:
      text: with its states.
      sketch: ink 1 on black; all zero if the sketch is dropped.
      regions: for Stage 2, else None.
      controls: an image in [0, 1] for each of `Model.controls`.
      text_shares: where `text` is n texts of equal length, the weight of each in the cells of each
        level; the cross-attention of UNet and ControlNets is restricted by it. None: one text.
      sizes: those of `AddedConditions`, for a UNet that reads them.
    """

    text: Text
    sketch: Float[Array, "b h w 3"]
    regions: Regions | None = None
    controls: tuple[Float[Array, "b h w 3"], ...] = ()
    text_shares: tuple[Float[Array, "b _ n"], ...] | None = None
    sizes: Float[Array, "b 6"] | None = None


@dataclass(frozen=True)
class Model:
    """The networks of a stage, without parameters: every method is pure in `params`.

    `params` is {"unet", "control", "text_encoder"[, "autoencoder"][, "ragaf"]}, each the tree of
    its network, and with `lora` also "lora": the adapters by network. `controls` are further
    ControlNets, which add their residuals to the sketch branch's; "controls" has a tree for each.
    Images have any height and width that the autoencoder's downscale divides; `image_size` is the
    side in training.
    """

    unet: UNet
    control: ControlNet
    text_encoder: ClipText | SdxlText
    autoencoder: Autoencoder
    image_size: int
    text_length: int
    max_regions: int
    max_edges: int
    ragaf: Ragaf | None = None
    lora: LoraConfig | None = None
    controls: tuple[ControlNet, ...] = ()

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one latent in training."""
        return self.latent_shape_of((self.image_size, self.image_size))

    def latent_shape_of(self, size: tuple[int, ...]) -> tuple[int, int, int]:
        """Height, width and channels of the latent of an image of (height, width) = `size`."""
        height, width = (side // self.autoencoder.downscale for side in size)
        return height, width, self.autoencoder.channels

    @property
    def sizes(self) -> Sizes:
        """The sizes of images."""
        multiple = self.autoencoder.downscale
        return Sizes(self.image_size, multiple, multiple * 2 ** (self.levels - 1))

    @property
    def levels(self) -> int:
        """Levels of the UNet; each halves the sides of the one before, rounded up."""
        return len(self.unet.config.block_out_channels)

    @property
    def sites(self) -> Mapping[str, tuple[int, int]]:
        """Level and channels of each of RAGAF's injection sites in the UNet."""
        return injection_sites(self.unet.config)

    def init(self, rng: PRNGKeyArray) -> Params:
        """Initial float32 parameters."""
        conditioning = self._example_conditioning()
        latents, timesteps = jnp.zeros((1, *self.latent_shape)), jnp.zeros(1)
        keys = jax.random.split(rng, 6)
        text, sketch = conditioning.text.states, conditioning.sketch
        inputs, added = (latents, timesteps, text), self._added(conditioning)
        params = {
            "unet": self.unet.init(keys[0], *inputs, added=added)["params"],
            "control": self.control.init(keys[1], *inputs, sketch, added=added)["params"],
            "text_encoder": self.text_encoder.init(keys[2], conditioning.text.tokens)["params"],
        }
        if autoencoder := self.autoencoder.init(keys[4]):
            params["autoencoder"] = autoencoder
        regions = conditioning.regions
        if self.ragaf is not None and regions is not None:
            control = {"params": params["control"]}
            _, _, features = self.control.apply(control, *inputs, sketch, added=added)
            pooled = self._pool(features, regions)
            params["ragaf"] = self.ragaf.init(
                keys[3], regions.graph, pooled, timesteps, text, regions.allowed
            )["params"]
        if self.lora is not None:
            params["lora"] = init_lora(self.lora, params, keys[5])
        return params

    def in_own_dtypes(self, params: Params) -> dict[str, Any]:
        """Trees of networks, each in the dtype in which its network computes."""

        def dtype_of(network: str) -> Dtype:
            if network == "autoencoder" and isinstance(self.autoencoder, KlAutoencoder):
                return self.autoencoder.vae.dtype
            return self.unet.dtype

        return {name: cast(tree, dtype_of(name)) for name, tree in params.items()}

    def shapes(self) -> Params:
        """The shapes of the parameters of `init`."""
        return jax.eval_shape(functools.partial(traced_init, self), jax.random.key(0))

    def encode_image(
        self, params: Params, image: Float[Array, "b s1 s2 3"], rng: Key[Array, " b"] | None = None
    ) -> Float[Array, "b h w c"]:
        """Latents of images in [−1, 1]; `rng` has a key per example, see `Autoencoder.encode`."""
        return self.autoencoder.encode(params.get("autoencoder", {}), image, rng)

    def decode_image(
        self, params: Params, latents: Float[Array, "b h w c"]
    ) -> Float[Array, "b s1 s2 3"]:
        """Images of latents, not clipped."""
        return self.autoencoder.decode(params.get("autoencoder", {}), latents)

    def encode_text(self, params: Params, text: Text, rng: PRNGKeyArray | None = None) -> Text:
        """As `encode_windows`; `rng` is for LoRA's dropout."""
        network = self.text_encoder
        apply = functools.partial(self._apply, "text_encoder", network, params, rng)
        return encode_windows(network, apply, text, self.text_length)

    def _added(self, conditioning: Conditioning) -> AddedConditions | None:
        """Pooled text and sizes, if the UNet reads them; ValueError: one is missing."""
        if self.unet.config.addition_embed_type is None:
            return None
        added = AddedConditions(conditioning.text.pooled, conditioning.sizes)
        for name, value in zip(("text.pooled", "sizes"), added, strict=True):
            if value is None:
                raise ValueError(f"Conditioning.{name} is None, expected it: the UNet reads it")
        return added

    def locate(
        self,
        labels: Int[Array, "b h w"],
        graph: jraph.GraphsTuple,
        token_mask: Bool[Array, "b t"],
        active: Float[Array, " b"] | None = None,
    ) -> Regions:
        """The region inputs, the same for all denoising steps."""
        return Regions(
            graph,
            self.region_shares(labels),
            jnp.ones(labels.shape[0]) if active is None else active,
            token_mask[:, None],
        )

    def region_shares(self, labels: Int[Array, "b h w"]) -> tuple[Float[Array, "b _ r"], ...]:
        """S_l of every level l of the UNet, the finest first."""
        grid = self.latent_shape_of(labels.shape[1:])[:2]
        shares = [region_shares(labels, self.max_regions, grid)]
        while len(shares) < self.levels:
            shares.append(halved(shares[-1]))
        return tuple(map(flat, shares))

    def predict(
        self,
        params: Params,
        latents: Float[Array, "b h w c"],
        timesteps: Float[Array, " b"],
        conditioning: Conditioning,
        rng: PRNGKeyArray | None = None,
        strengths: Sequence[Strength] = (),
        guidance: Float[Array, " b"] | None = None,
    ) -> tuple[Float[Array, "b h w c"], RagafTrace | None]:
        """The UNet's output, of the stage's prediction type.

        Args:
          params: the stage's parameters.
          latents: noisy latents x_t.
          timesteps: t in 0 … T.
          conditioning: sketch, text and, in Stage 2, regions.
          rng: for LoRA's dropout, in training.
          strengths: scales of the residuals of the sketch branch and of each of `controls`, as in
            `ControlNet`; () is 1 for all, as in training.
          guidance: as of `UNet`; None in training.

        Returns:
          The prediction, and RAGAF's trace or None.
        """
        text = conditioning.text.states
        inputs, shares = (latents, timesteps, text), conditioning.text_shares
        added = self._added(conditioning)
        own, *others = strengths or [1.0] * (1 + len(self.controls))
        sketch = conditioning.sketch, own, shares, added
        down, mid, features = self._apply("control", self.control, params, rng, *inputs, *sketch)
        for network, tree, *rest in zip(
            self.controls, params.get("controls", ()), conditioning.controls, others, strict=True
        ):
            more, more_mid, _ = network.apply({"params": tree}, *inputs, *rest, shares, added)
            down = tuple(one + other for one, other in zip(down, more, strict=True))
            mid = mid + more_mid
        signals, trace = {}, None
        if self.ragaf is not None and conditioning.regions is not None:
            regions = conditioning.regions
            pooled = self._pool(features, regions)
            sent, trace = self._apply_ragaf(params, pooled, timesteps, text, regions)
            signals = {
                site: place(sent[site], regions.shares[level], regions.active)
                for site, (level, _) in self.sites.items()
            }
        signalled = *inputs, down, mid, signals, guidance, shares, added
        prediction = self._apply("unet", self.unet, params, rng, *signalled)
        return prediction, trace

    def ragaf_trace(
        self, params: Params, timesteps: Float[Array, " b"], text: Text, regions: Regions
    ) -> RagafTrace:
        """RAGAF's trace from text and graph alone, without the UNet; only for models with RAGAF."""
        return self._apply_ragaf(params, None, timesteps, text.states, regions)[1]

    def _apply_ragaf(
        self,
        params: Params,
        pooled: Float[Array, "b r p"] | None,
        timesteps: Float[Array, " b"],
        text_states: Float[Array, "b t d"],
        regions: Regions,
    ) -> tuple[Mapping[str, tuple[Float[Array, "b r _"], Float[Array, "b r t"]]], RagafTrace]:
        """RAGAF's feature and logit bias of each region by site, and its trace."""
        assert self.ragaf is not None
        inputs = regions.graph, pooled, timesteps, text_states, regions.allowed
        return self.ragaf.apply({"params": params["ragaf"]}, *inputs)

    def _apply(
        self, name: str, network: nn.Module, params: Params, rng: PRNGKeyArray | None, *inputs: Any
    ) -> Any:
        """The output of a network with its adapters, if any."""
        adapters = params.get("lora", {}).get(name, {})
        if rng is not None:
            rng = jax.random.fold_in(rng, NETWORKS.index(name))
        dropout = self.lora.dropout if self.lora is not None else 0.0
        with adapted(adapters, dropout, rng):
            return network.apply({"params": params[name]}, *inputs)

    def _pool(
        self, features: tuple[Float[Array, "b _ _ _"], ...], regions: Regions
    ) -> Float[Array, "b r p"]:
        """The last feature of every level, averaged over each region and concatenated."""
        # Each level has an input and an output per layer; after the coarsest is the mid block's.
        outputs = self.unet.config.layers_per_block + 1
        last = *features[outputs - 1 : -2 : outputs], features[-1]
        pairs = zip(last, regions.shares, strict=True)
        return jnp.concatenate([pool_regions(feature, shares) for feature, shares in pairs], -1)

    def _example_conditioning(self) -> Conditioning:
        """All-zero inputs of the right shapes, for initialisation."""
        size, tokens = self.image_size, self.text_length
        mask = jnp.ones((1, tokens), bool)
        unet = self.unet.config
        states = jnp.zeros((1, tokens, unet.cross_attention_dim))
        pooled, sizes = None, None
        if unet.addition_embed_type is not None:
            pooled, sizes = jnp.zeros((1, unet.pooled_width)), jnp.zeros((1, SIZES))
        text = Text(jnp.zeros((1, tokens), jnp.int32), mask, states=states, pooled=pooled)
        sketch = jnp.zeros((1, size, size, 3))
        if self.ragaf is None:
            return Conditioning(text, sketch, sizes=sizes)
        graph = jraph.GraphsTuple(
            nodes=jnp.zeros((1, self.max_regions, len(NODE_FEATURES))),
            edges=jnp.zeros((1, self.max_edges, len(EDGE_FEATURES))),
            senders=jnp.zeros((1, self.max_edges), jnp.int32),
            receivers=jnp.zeros((1, self.max_edges), jnp.int32),
            n_node=jnp.array([[self.max_regions, 0]]),
            n_edge=jnp.array([[self.max_edges, 0]]),
            globals=None,
        )
        labels = jnp.zeros((1, size, size), jnp.int32)
        return Conditioning(text, sketch, self.locate(labels, graph, mask), sizes=sizes)


@functools.partial(jax.jit, static_argnums=0)
def traced_init(model: Model, rng: PRNGKeyArray) -> Params:
    """`model.init`, traced only once per process for shapes and parameters."""
    return model.init(rng)
