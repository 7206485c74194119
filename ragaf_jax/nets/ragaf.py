"""RAGAF, region-adaptive graph-attention fusion.

The regions are nodes of a graph. Graph attention gives each region its context. Each attends to its
text tokens, and sketch and text are weighted per region and timestep. The UNet gets the result as a
`RegionSignal` for each injection site and adds it *at the place of each region*. The steps:
(1) embedded nodes and pooled control features; (2) graph attention; (3) attention to text;
(4) weights of sketch and text; (5) signals for the UNet.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph
from jaxtyping import Array, Bool, Float, Int

from ragaf_jax.nets.layers import Dense, parameter, timestep_embedding, widened
from ragaf_jax.nets.regions import fourier_features

FUSIONS = ("learned", "heuristic", "hybrid", "equal")
INJECTIONS = ("features", "bias")

# Of the node features' Fourier series: the shortest wavelength is a quarter of the page.
OCTAVES = 4

# Added to attention before its logarithm: log(1e-4) = -9.2.
ATTENTION_FLOOR = 1e-4


@dataclass(frozen=True)
class RagafConfig:
    """Sizes of RAGAF.

    Attributes:
      width: channels of a region's feature.
      layers: layers of graph attention.
      heads: attention heads, over neighbours and over tokens; must divide `width`.
      fusion: the weighting of sketch and text: "learned", "heuristic", "hybrid" or "equal", a
        constant half of each.
      inject: RAGAF's effects on the UNet: "features" added to a region's cells, and a "bias" of the
        cells' cross-attention. Without any there is no RAGAF.
    """

    width: int = 128
    layers: int = 2
    heads: int = 4
    fusion: str = "learned"
    inject: tuple[str, ...] = INJECTIONS

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.fusion not in FUSIONS:
            raise ValueError(f"fusion is {self.fusion!r}, expected one of {FUSIONS}")
        if not set(self.inject) <= set(INJECTIONS):
            raise ValueError(f"inject is {self.inject!r}, expected some of {INJECTIONS}")


class RagafTrace(NamedTuple):
    """RAGAF's intermediate results, for figures, metrics and the appearance loss.

    Attributes:
      attention: A, each region's attention over the tokens; rows sum to 1.
      fusion: α (sketch) and β (text) of each region; they sum to 1.
      appearance: the prediction of each region's mean latent.
    """

    attention: Float[Array, "b r t"]
    fusion: Float[Array, "b r 2"]
    appearance: Float[Array, "b r c"]


class GraphAttention(nn.Module):
    """A layer of multi-head GATv2 with edge features, over one padded graph.

    Brody et al., "How Attentive are Graph Attention Networks?" (2022), eq. 7, with the projected
    edge feature added inside the nonlinearity: e_ij = aᵀ LeakyReLU(W_s h_i + W_r h_j + W_e x_ij).
    """

    heads: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        nodes: Float[Array, "r c"],
        edges: Float[Array, "e f"],
        senders: Int[Array, "e"],
        receivers: Int[Array, "e"],
    ) -> Float[Array, "r c"]:
        """The update of every node; the caller adds it."""
        count, width = nodes.shape

        def projected(name: str, x: Float[Array, "n _"], bias: bool) -> Float[Array, "n h d"]:
            y = Dense(width, bias, dtype=self.dtype, name=name)(x)
            return y.reshape(len(x), self.heads, -1)

        sent, received = projected("sender", nodes, True), projected("receiver", nodes, True)
        between = projected("edge", edges, False)
        a = self.param("attention", nn.initializers.lecun_normal(), sent.shape[1:])
        activity = nn.leaky_relu(sent[senders] + received[receivers] + between, 0.2)
        logits = jnp.einsum("ehd,hd->eh", widened(activity), a)
        weights = jraph.segment_softmax(logits, receivers, num_segments=count)
        # The message includes the edge feature: *where* a neighbour lies matters too.
        messages = (sent[senders] + between) * weights[..., None].astype(self.dtype)
        gathered = jraph.segment_sum(messages, receivers, num_segments=count)
        return Dense(width, dtype=self.dtype, name="out")(gathered.reshape(count, width))


class FeedForward(nn.Module):
    """Two dense layers with a GELU between them."""

    width: int
    expansion: int = 2
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch c"]) -> Float[Array, "*batch width"]:
        """Applies both layers."""
        hidden = nn.gelu(Dense(self.expansion * self.width, dtype=self.dtype, name="fc1")(x))
        return Dense(self.width, dtype=self.dtype, name="fc2")(hidden)


class GraphBlock(nn.Module):
    """(2) Graph attention and feed-forward, pre-norm, residual."""

    heads: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, nodes: Float[Array, "b r c"], graph: jraph.GraphsTuple
    ) -> Float[Array, "b r c"]:
        """`graph` has the edges; its own nodes are ignored."""
        attention = nn.vmap(
            GraphAttention, variable_axes={"params": None}, split_rngs={"params": False}
        )(self.heads, self.dtype, name="attention")
        normed = nn.LayerNorm(dtype=self.dtype, name="norm1")(nodes)
        nodes = nodes + attention(normed, graph.edges, graph.senders, graph.receivers)
        normed = nn.LayerNorm(dtype=self.dtype, name="norm2")(nodes)
        return nodes + FeedForward(nodes.shape[-1], dtype=self.dtype, name="ff")(normed)


class TextConvolution(nn.Module):
    """A convolution along each text, over tokens that are allowed for exactly the same regions."""

    reach: int  # tokens of its kernel, an odd number
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, text: Float[Array, "b t d"], allowed: Bool[Array, "b r t"]
    ) -> Float[Array, "b t d"]:
        """`text` is zero at tokens that are allowed for no region."""
        width, side = text.shape[-1], self.reach // 2
        shape = self.reach, width, width
        kernel = parameter(self, "kernel", nn.initializers.lecun_normal(), shape)
        kernel = kernel.astype(self.dtype)
        bias = parameter(self, "bias", nn.initializers.zeros, (width,))[None, None]
        text, bias = text.astype(self.dtype), bias.astype(self.dtype)
        if allowed.shape[1] == 1:  # all regions share one text
            axes = "NTC", "TIO", "NTC"
            return bias + jax.lax.conv_general_dilated(
                text, kernel, (1,), "SAME", dimension_numbers=axes
            )
        padded = jnp.pad(text, ((0, 0), (side, side), (0, 0)))
        padded_allowed = jnp.pad(allowed, ((0, 0), (0, 0), (side, side)))
        total = jnp.broadcast_to(bias, text.shape)
        for i in range(self.reach):
            at = slice(i, i + text.shape[1])
            same = (padded_allowed[..., at] == allowed).all(1)
            total = total + jnp.where(same[..., None], padded[:, at], 0) @ kernel[i]
        return total


class TextAttention(nn.Module):
    """(3) Each region attends to its allowed tokens, each with a context of `reach` tokens."""

    heads: int
    reach: int = 9
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        regions: Float[Array, "b r c"],
        text_states: Float[Array, "b t d"],
        allowed: Bool[Array, "b #r t"],
    ) -> tuple[Float[Array, "b r c"], Float[Array, "b r t"]]:
        """The text feature z of each region, and the attention A, averaged over the heads."""
        width = regions.shape[-1]

        def projected(name: str, x: Float[Array, "b n _"]) -> Float[Array, "b n h d"]:
            y = Dense(width, dtype=self.dtype, name=name)(x)
            return y.reshape(*x.shape[:2], self.heads, -1)

        normed = nn.LayerNorm(dtype=self.dtype, name="norm")(regions)
        text = nn.LayerNorm(dtype=self.dtype, name="norm_text")(text_states)
        text = jnp.where(allowed.any(1)[..., None], text, 0)
        # CLIP is causal, so the state of "red" does not depend on a later "at the top". The
        # convolution adds such context.
        convolution = TextConvolution(self.reach, dtype=self.dtype, name="phrases")
        text = text + nn.gelu(convolution(text, allowed))
        query, key = projected("to_q", normed), projected("to_k", text)
        value = projected("to_v", text)
        wide = widened(query).dtype
        logits = jnp.einsum("brhd,bthd->bhrt", query, key, preferred_element_type=wide)
        logits = logits * query.shape[-1] ** -0.5
        logits = jnp.where(allowed[:, None], logits, jnp.finfo(jnp.float32).min)
        attention = jax.nn.softmax(logits)
        z = jnp.einsum("bhrt,bthd->brhd", attention.astype(self.dtype), value)
        z = Dense(width, dtype=self.dtype, name="out")(z.reshape(regions.shape))
        return z, attention.mean(1)


class Fusion(nn.Module):
    """(4) α and β of every region at this timestep, the weights of sketch and text."""

    kind: str
    timesteps: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, regions: Float[Array, "b r c"], timestep: Float[Array, " b"]
    ) -> Float[Array, "b r 2"]:
        """`timestep` in 0 … T; the pair of every region sums to 1."""
        alpha = 0.3 + 0.6 * timestep[:, None] / self.timesteps
        prior = jnp.broadcast_to(jnp.stack([alpha, 1 - alpha], -1), (*regions.shape[:2], 2))
        if self.kind == "heuristic":
            return prior
        if self.kind == "equal":
            return jnp.full_like(prior, 0.5)
        time = timestep_embedding(timestep, regions.shape[-1])
        time = jnp.broadcast_to(time[:, None], regions.shape).astype(regions.dtype)
        inputs = jnp.concatenate([nn.LayerNorm(name="norm")(regions), time], -1)
        logits = widened(FeedForward(2, expansion=32, dtype=self.dtype, name="mlp")(inputs))
        return jax.nn.softmax(logits + jnp.log(prior) if self.kind == "hybrid" else logits)


class Ragaf(nn.Module):
    """Regions, text and timestep → one `RegionSignal` per site.

    Attributes:
      config: sizes.
      sites: channels of every injection site, by name in the UNet.
      latent_channels: size of a region's mean latent, for `appearance`.
      timesteps: T of the diffusion schedule.
    """

    config: RagafConfig
    sites: tuple[tuple[str, int], ...]
    latent_channels: int
    timesteps: int = 1000
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        graph: jraph.GraphsTuple,
        pooled: Float[Array, "b r p"] | None,
        timestep: Float[Array, " b"],
        text_states: Float[Array, "b t d"],
        allowed: Bool[Array, "b #r t"],
    ) -> tuple[Mapping[str, tuple[Float[Array, "b r _"], Float[Array, "b r t"]]], RagafTrace]:
        """Runs (1) to (5), without the parts inside the UNet.

        Args:
          graph: the padded region graph with a leading batch axis.
          pooled: the control branch's features, averaged over each region; None: only the graph.
          timestep: in 0 … T.
          text_states: of the text encoder.
          allowed: the tokens that a region may attend to, without padding and prompts of other
            regions. At least one for every region.

        Returns:
          (feature, logit bias) of each region by site, and the trace.
        """
        width, dtype = self.config.width, self.dtype
        h = Dense(width, dtype=dtype, name="embed_nodes")(fourier_features(graph.nodes, OCTAVES))
        if pooled is not None:
            pooled = nn.LayerNorm(dtype=dtype, name="norm_pooled")(pooled)
            h = h + Dense(width, dtype=dtype, name="embed_pooled")(pooled)
        for i in range(self.config.layers):
            h = GraphBlock(self.config.heads, dtype, name=f"graph_{i}")(h, graph)

        text_attention = TextAttention(self.config.heads, dtype=dtype, name="words")
        z, attention = text_attention(h, text_states, allowed)
        fusion = Fusion(self.config.fusion, self.timesteps, dtype, name="fusion")(h, timestep)
        alpha, beta = fusion[..., :1].astype(dtype), fusion[..., 1:].astype(dtype)
        fused = FeedForward(width, dtype=dtype, name="mlp")(alpha * h + beta * z)
        fused = nn.LayerNorm(dtype=dtype, name="norm")(fused)

        # (5) zero_dense commutes with the sum over regions, so it is applied to 32 regions instead
        # of thousands of cells.
        log_attention = jnp.log(attention + ATTENTION_FLOOR) * fusion[..., 1:]
        signals = {}
        for site, channels in self.sites:
            name = site.replace("/", "_")
            feature = jnp.zeros((*fused.shape[:2], channels), dtype)
            bias = jnp.zeros_like(log_attention)
            if "features" in self.config.inject:
                zeros, scope = nn.initializers.zeros, f"feature_{name}"
                feature = nn.Dense(channels, False, dtype, kernel_init=zeros, name=scope)(fused)
            if "bias" in self.config.inject:
                gamma = self.param(f"gamma_{name}", nn.initializers.zeros, ())
                bias = gamma * log_attention
            signals[site] = (feature, bias)
        appearance = Dense(self.latent_channels, name="appearance")(fused)
        return signals, RagafTrace(attention, fusion, appearance)
