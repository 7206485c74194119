"""The properties of the two stages and of RAGAF that the design promises, on random inputs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import (
    in_float64,
    random_batch,
    random_graph,
    random_params,
    smallest_config,
    tiny_config,
)

from ragaf_jax.batch import stacked
from ragaf_jax.conditioning import condition
from ragaf_jax.losses.terms import appearance_loss
from ragaf_jax.nets.build import build_model
from ragaf_jax.nets.lora import adapted
from ragaf_jax.nets.ragaf import FUSIONS, INJECTIONS, Fusion
from ragaf_jax.nets.regions import flat, halved, pool_regions, region_shares
from ragaf_jax.training.initial import initial_params


def small_config(number):
    """Few layers, but RAGAF enters both kinds of block that it can enter."""
    config = smallest_config(number)
    config.model.unet.up_block_types = ("CrossAttnUpBlock2D",)
    return config


def precise_config(number=2):
    """Two resolutions, in float64: normalisation by few channels in float32 makes a hundred times
    more of what a sum's order changes.
    """
    config = tiny_config(number, levels=2)
    config.model.dtype = "float64"
    config.model.unet.down_block_types = ("DownBlock2D", "CrossAttnDownBlock2D")
    return config


@pytest.fixture(scope="module")
def drawn(seed):
    """Stage 2 with every path open, a batch, latents and timesteps."""
    rng, config = np.random.default_rng(seed), precise_config()
    with jax.enable_x64(True):
        model = build_model(config)
        params, batch = in_float64((random_params(model, rng), random_batch(rng, config)))
    latents = rng.standard_normal((4, *model.latent_shape))
    return model, params, batch, latents, rng.uniform(0, 999, 4)


@pytest.fixture
def inputs(drawn):
    with jax.enable_x64(True):
        yield drawn


def example(tree, index):
    return jax.tree.map(lambda x: x[index], tree)


@functools.partial(jax.jit, static_argnums=0)
def predict(model, params, batch, latents, timesteps, active=1.0):
    conditioning = condition(model, params, batch, jnp.full(len(latents), active))
    return model.predict(params, latents, timesteps, conditioning)


def close(a, b):
    assert a.dtype == b.dtype == np.float64
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-10 * float(np.abs(b).max()))


@pytest.fixture(scope="module")
def beginning(seed):
    """A trained Stage 1, and Stage 2's first parameters from it."""
    config = small_config(2)
    stage1 = random_params(build_model(small_config(1)), np.random.default_rng(seed))
    return stage1, initial_params(config, build_model(config), stage1)


@pytest.mark.slow
def test_stage2_equals_stage1_at_initialization(rng, beginning):
    """To the bit, where each operation is compiled alone: then both stages round alike."""
    config, (stage1, stage2) = small_config(2), beginning
    model1, model2 = build_model(small_config(1)), build_model(config)
    latents = rng.standard_normal((2, *model1.latent_shape)).astype(np.float32)
    timesteps = rng.uniform(0, 999, 2).astype(np.float32)
    given = jax.jit(condition, static_argnums=0)(
        model2, stage2, random_batch(rng, config, 2), jnp.ones(2)
    )
    latents, timesteps = jnp.asarray(latents), jnp.asarray(timesteps)
    one, _ = model1.predict(stage1, latents, timesteps, given._replace(regions=None))
    two, trace = model2.predict(stage2, latents, timesteps, given)
    np.testing.assert_array_equal(two, one)
    assert trace is not None and np.std(one) > 0


def test_regions_matter_once_trained(rng, inputs):
    model, params, batch, latents, timesteps = inputs
    with_regions, _ = predict(model, params, batch, latents, timesteps)
    other = batch._replace(
        labels=np.roll(batch.labels, 1, 0),
        graph=jax.tree.map(lambda x: np.roll(x, 1, 0), batch.graph),
    )
    without, _ = predict(model, params, other, latents, timesteps)
    assert np.abs(with_regions - without).max() > 1e-3


def test_permuting_region_ids_changes_nothing(rng, inputs):
    model, params, batch, latents, timesteps = inputs
    graphs, labels = [], []
    for i in range(4):
        n, e = int(batch.graph.n_node[i, 0]), int(batch.graph.n_edge[i, 0])
        order = rng.permutation(n)  # new id k is the old region order[k]
        new_id = np.argsort(order)
        nodes = batch.graph.nodes[i].copy()
        nodes[:n] = nodes[:n][order]
        senders, receivers = batch.graph.senders[i].copy(), batch.graph.receivers[i].copy()
        senders[:e], receivers[:e] = new_id[senders[:e]], new_id[receivers[:e]]
        shuffle = np.concatenate([rng.permutation(e), np.arange(e, len(senders))])
        graphs.append(
            example(batch.graph, i)._replace(
                nodes=nodes,
                edges=batch.graph.edges[i][shuffle],
                senders=senders[shuffle],
                receivers=receivers[shuffle],
            )
        )
        labels.append(new_id[batch.labels[i]].astype(np.int32))
    permuted = batch._replace(labels=np.stack(labels), graph=stacked(graphs))
    before, _ = predict(model, params, batch, latents, timesteps)
    after, _ = predict(model, params, permuted, latents, timesteps)
    close(after, before)


def transposed(tree):
    """The kernels of convolutions with rows and columns exchanged."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1) if np.ndim(x) == 4 else x, tree)


@pytest.mark.products
def test_a_transposed_image_of_odd_sides_has_the_transposed_prediction(rng, inputs):
    """Rows and columns are treated alike: 5 × 7 latents, then 3 × 4, and the regions in them."""
    model, params, batch, _, timesteps = inputs
    batch, timesteps = jax.tree.map(lambda x: x[:1], (batch, timesteps))
    sketch, labels = rng.uniform(size=(1, 20, 28, 3)), rng.integers(0, 4, (1, 20, 28), np.int32)
    wide = batch._replace(image=None, sketch=sketch, labels=labels)
    high = wide._replace(sketch=sketch.swapaxes(1, 2), labels=labels.swapaxes(1, 2))
    latents = rng.standard_normal((1, 5, 7, model.latent_shape[2]))
    expected, _ = predict(model, params, wide, latents, timesteps)
    found, _ = predict(model, transposed(params), high, latents.swapaxes(1, 2), timesteps)
    close(found.swapaxes(1, 2), expected)
    # The regions matter there.
    moved = wide._replace(labels=np.roll(labels, 5, 2))
    assert np.abs(predict(model, params, moved, latents, timesteps)[0] - expected).max() > 1e-3


def test_more_padding_changes_nothing(rng, inputs):
    _, params, batch, latents, timesteps = inputs
    config = precise_config()
    config.data.max_regions, config.data.max_edges = 17, 101
    wider = build_model(config)
    graph = stacked([random_graph(x, 17, 101) for x in batch.labels])
    np.testing.assert_array_equal(graph.n_edge[:, 0], batch.graph.n_edge[:, 0])  # nothing is cut
    before, trace = predict(inputs[0], params, batch, latents, timesteps)
    after, wider_trace = predict(wider, params, batch._replace(graph=graph), latents, timesteps)
    close(after, before)
    for i in range(4):
        n = int(batch.graph.n_node[i, 0])
        close(wider_trace.attention[i, :n], trace.attention[i, :n])


def test_padding_tokens_are_not_attended_to(inputs):
    model, params, batch, latents, timesteps = inputs
    _, trace = predict(model, params, batch, latents, timesteps)
    attention = np.asarray(trace.attention)
    np.testing.assert_allclose(attention.sum(-1), 1, rtol=1e-5)
    assert attention[~np.repeat(batch.text.mask[:, None], attention.shape[1], 1)].max() == 0
    np.testing.assert_allclose(np.asarray(trace.fusion).sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("copies", [4, pytest.param(1, marks=pytest.mark.products)])
def test_a_batch_equals_its_examples_one_by_one(inputs, copies):
    """Each with copies of itself (a batch as large needs no other program), or all alone."""
    model, params, batch, latents, timesteps = inputs
    together, _ = predict(model, params, batch, latents, timesteps)
    for i in range(4):
        alone, _ = predict(model, params, *example((batch, latents, timesteps), [i] * copies))
        for found in alone:
            close(found, together[i])


def test_inactive_regions_are_as_good_as_none(inputs):
    model, params, *given = inputs
    dropped, _ = predict(model, params, *given, 0.0)
    none, trace = predict(build_model(precise_config(1)), params, *given, 0.0)
    close(dropped, none)
    assert trace is None


@functools.partial(jax.jit, static_argnums=0)
def gradients(model, ragaf, params, batch):
    """Of RAGAF's parameters, by the prediction and by what regions are said to be."""
    latents = model.autoencoder.encode({}, batch.image)

    def loss_of(ragaf):
        conditioning = condition(model, params | {"ragaf": ragaf}, batch, jnp.ones(4))
        prediction, trace = model.predict(
            params | {"ragaf": ragaf}, latents, jnp.full(4, 500.0), conditioning
        )
        appearance = appearance_loss(trace, conditioning.regions, latents)
        return jnp.square(prediction - latents).mean() + appearance.mean()

    return jax.grad(loss_of)(ragaf)


def assert_all_are_there(found):
    for path, gradient in jax.tree_util.tree_leaves_with_path(found):
        assert np.abs(gradient).max() > 0, jax.tree_util.keystr(path)


# Each fusion and each way of injection; the rest of their combinations by night.
PAIRS = [("learned", INJECTIONS), ("hybrid", ("bias",)), ("heuristic", ("features",))]
REST = [
    pytest.param(fusion, ways, marks=pytest.mark.products)
    for fusion in FUSIONS
    for ways in (INJECTIONS, ("features",), ("bias",))
    if (fusion, ways) not in PAIRS
]


@pytest.mark.parametrize(("fusion", "ways"), [*PAIRS, *REST])
def test_every_ragaf_parameter_has_a_say(rng, fusion, ways):
    """And each way of injection alone acts on the picture."""
    config = small_config(2)
    config.model.ragaf.fusion, config.model.ragaf.inject = fusion, ways
    model = build_model(config)
    params = random_params(model, rng)
    names = "".join(params["ragaf"])
    assert ("gamma_" in names) == ("bias" in ways)
    assert ("feature_" in names) == ("features" in ways)
    assert_all_are_there(gradients(model, params["ragaf"], params, random_batch(rng, config)))


def test_every_ragaf_parameter_gets_a_gradient_after_one_step(rng, beginning):
    config, (_, params) = small_config(2), beginning
    model, ragaf = build_model(config), params["ragaf"]
    first = gradients(model, ragaf, params, random_batch(rng, config))
    moved = jax.tree.map(lambda x, slope: x - 0.01 * np.sign(slope), ragaf, first)
    assert_all_are_there(gradients(model, moved, params, random_batch(rng, config)))


def test_dropout_of_a_lora_differs_between_networks(rng, monkeypatch):
    """With one key for all, what is dropped in the UNet is dropped in its copy too."""
    config, used = smallest_config(1), []
    model = build_model(config)

    def spied(adapters, dropout, key):
        used.append(jax.random.key_data(key))
        return adapted(adapters, dropout, key)

    @jax.jit
    def keys_of(key, params, batch):
        conditioning = condition(model, params, batch, jnp.ones(4), key)
        latents = jnp.zeros((4, *model.latent_shape))
        model.predict(params, latents, jnp.zeros(4), conditioning, key)
        return used

    monkeypatch.setattr("ragaf_jax.nets.model.adapted", spied)
    found = keys_of(jax.random.key(0), random_params(model, rng), random_batch(rng, config))
    keys = np.array(found)
    assert len(np.unique(keys, axis=0)) == len(keys) == 3  # text encoder, sketch branch, UNet


def test_fusions_without_parameters(rng):
    """A half of each, or the more of the sketch the noisier the latent."""
    times = jnp.asarray(rng.uniform(0, 1000, 3), jnp.float32)
    for kind, alpha in (("heuristic", 0.3 + 0.6 * times / 1000), ("equal", np.full(3, 0.5))):
        fusion = Fusion(kind, 1000, jnp.dtype("float32"))
        found, params = fusion.init_with_output(jax.random.key(0), jnp.zeros((3, 5, 8)), times)
        assert not params
        np.testing.assert_allclose(found[..., 0], np.tile(alpha[:, None], 5), rtol=1e-5)
        np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)


def test_shares_are_area_averages(rng):
    labels = jnp.asarray(rng.integers(0, 5, (2, 12, 20)), jnp.int32)
    shares = np.asarray(flat(region_shares(labels, 7, (3, 5))))
    np.testing.assert_allclose(shares.sum(-1), 1, rtol=1e-6)
    for p in range(15):
        row, column = 4 * (p // 5), 4 * (p % 5)
        cell = labels[1, row : row + 4, column : column + 4]
        expected = np.bincount(cell.ravel(), minlength=7) / 16
        np.testing.assert_allclose(shares[1, p], expected, rtol=1e-6)
    with pytest.raises(ValueError, match="12 × 20 does not divide into 3 × 6"):
        region_shares(labels, 7, (3, 6))


def test_coarser_shares_are_those_counted_anew(rng):
    labels = jnp.asarray(rng.integers(0, 5, (2, 24, 48)), jnp.int32)
    shares = region_shares(labels, 7, (8, 16))
    for grid in ((4, 8), (2, 4), (1, 2)):
        shares = halved(shares)
        np.testing.assert_allclose(shares, region_shares(labels, 7, grid), rtol=1e-6)


def test_the_last_shares_of_an_odd_side_are_those_of_half_a_cell(rng):
    """The UNet rounds up: 3 × 5 cells become 2 × 3, and the last ones cover what is left."""
    fine = np.asarray(region_shares(jnp.asarray(rng.integers(0, 5, (2, 3, 5))), 7, (3, 5)))
    coarse = np.asarray(halved(jnp.asarray(fine)))
    for row, column in np.ndindex(2, 3):
        mean = fine[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean((1, 2))
        np.testing.assert_allclose(coarse[:, row, column], mean, rtol=1e-6)


def test_pooling_is_the_mean_over_a_region(rng):
    labels = rng.integers(0, 2, (1, 16, 16))
    labels[0, 5, 6] = 2  # a sixteenth of a cell
    features = rng.standard_normal((1, 4, 4, 4)).astype(np.float32)
    shares = flat(region_shares(jnp.asarray(labels, jnp.int32), 4, (4, 4)))
    pooled = np.asarray(pool_regions(jnp.asarray(features), shares))
    of_pixels = features.astype(np.float64).repeat(4, 1).repeat(4, 2)
    for region in range(3):
        mean = of_pixels[labels == region].mean(0)
        np.testing.assert_allclose(pooled[0, region], mean, rtol=1e-4, atol=1e-6)
    assert (pooled[0, 3] == 0).all()
