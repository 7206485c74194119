"""The properties of the two stages and of RAGAF that the design promises, on random inputs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import random_batch, random_graph, random_params, tiny_config, tiny_tokenizer

from ragaf_jax.graph.padding import stack_graphs
from ragaf_jax.nets.build import build_model
from ragaf_jax.nets.ragaf import FUSIONS, INJECTIONS
from ragaf_jax.nets.regions import coarser, pool_regions, region_shares
from ragaf_jax.training.initial import initial_params
from ragaf_jax.training.losses import appearance_loss
from ragaf_jax.training.objective import condition
from ragaf_jax.training.optim import optimizer
from ragaf_jax.training.setup import initial_state, objective_of
from ragaf_jax.training.step import train_step


@pytest.fixture(scope="module")
def stages():
    config = tiny_config(2, levels=2)
    return build_model(tiny_config(1, levels=2)), build_model(config), config


def precise_config():
    config = tiny_config(2, levels=2)
    config.model.dtype = "float64"
    return config


@pytest.fixture
def inputs(rng):
    """Stage 2 with every path open, a batch, latents and timesteps; all in float64, as in float32
    normalisation by few channels makes a hundred times more of what a sum's order changes.
    """
    with jax.enable_x64(True):
        config = precise_config()
        model = build_model(config)
        params, batch = jax.tree.map(
            lambda x: np.float64(x) if x.dtype == np.float32 else np.asarray(x),
            (random_params(model, rng), random_batch(rng, config)),
        )
        latents = rng.standard_normal((4, *model.latent_shape))
        yield model, params, batch, latents, rng.uniform(0, 999, 4)


def random_key(rng):
    return jax.random.key(int(rng.integers(2**31)))


def example(tree, index):
    return jax.tree.map(lambda x: x[index], tree)


@functools.partial(jax.jit, static_argnums=0)
def predict(model, params, batch, latents, timesteps):
    conditioning = condition(model, params, batch, jnp.ones(len(latents)))
    return model.predict(params, latents, timesteps, conditioning)


def close(a, b):
    assert a.dtype == b.dtype == np.float64
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-10 * float(np.abs(b).max()))


def test_stage2_equals_stage1_at_initialization(rng, stages):
    model1, model2, config = stages
    stage1 = random_params(model1, rng)
    params = initial_params(config, model2, stage1)
    batch = random_batch(rng, config)
    latents = rng.standard_normal((4, *model1.latent_shape)).astype(np.float32)
    timesteps = rng.uniform(0, 999, 4).astype(np.float32)
    one, _ = predict(model1, stage1, batch, latents, timesteps)
    two, trace = predict(model2, params, batch, latents, timesteps)
    np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-6)
    assert trace is not None


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
    permuted = batch._replace(labels=np.stack(labels), graph=stack_graphs(graphs))
    before, _ = predict(model, params, batch, latents, timesteps)
    after, _ = predict(model, params, permuted, latents, timesteps)
    close(after, before)


def test_more_padding_changes_nothing(rng, inputs):
    _, params, batch, latents, timesteps = inputs
    config = precise_config()
    config.data.max_regions, config.data.max_edges = 17, 101
    wider = build_model(config)
    graph = stack_graphs([random_graph(x, 17, 101) for x in batch.labels])
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
    assert attention[~np.repeat(batch.token_mask[:, None], attention.shape[1], 1)].max() == 0
    np.testing.assert_allclose(np.asarray(trace.fusion).sum(-1), 1, rtol=1e-5)


def test_a_batch_equals_its_examples_one_by_one(inputs):
    model, params, batch, latents, timesteps = inputs
    together, _ = predict(model, params, batch, latents, timesteps)
    for i in range(4):
        one = example(batch, slice(i, i + 1))
        alone, _ = predict(model, params, one, latents[i : i + 1], timesteps[i : i + 1])
        close(alone[0], together[i])


def test_inactive_regions_are_as_good_as_none(inputs):
    model = inputs[0]
    params, batch, latents, timesteps = jax.tree.map(jnp.asarray, inputs[1:])
    conditioning = condition(model, params, batch, jnp.zeros(4))
    predict = jax.jit(model.predict)
    dropped, _ = predict(params, latents, timesteps, conditioning)
    none, trace = predict(params, latents, timesteps, conditioning._replace(regions=None))
    close(dropped, none)
    assert trace is None


def assert_all_gradients(model, params, batch):
    """Every parameter of RAGAF has a say in the prediction or in what regions are said to be."""
    batch = jax.tree.map(jnp.asarray, batch)
    latents = model.autoencoder.encode({}, batch.image)

    @jax.jit
    def gradients(ragaf, others):
        def loss_of(ragaf):
            conditioning = condition(model, {**others, "ragaf": ragaf}, batch, jnp.ones(4))
            prediction, trace = model.predict(
                {**others, "ragaf": ragaf}, latents, jnp.full(4, 500.0), conditioning
            )
            appearance = appearance_loss(trace, conditioning.regions, latents)
            return jnp.square(prediction - latents).mean() + appearance.mean()

        return jax.grad(loss_of)(ragaf)

    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients(params["ragaf"], params)):
        assert np.abs(gradient).max() > 0, jax.tree_util.keystr(path)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_ragaf_parameter_has_a_say(rng, fusion):
    config = tiny_config(2)
    config.model.ragaf.fusion = fusion
    model = build_model(config)
    assert_all_gradients(model, random_params(model, rng), random_batch(rng, config))


@pytest.mark.parametrize("way", INJECTIONS)
def test_each_way_of_injection_alone_acts_on_the_picture(rng, way):
    config = tiny_config(2)
    config.model.ragaf.inject = (way,)
    model = build_model(config)
    params = random_params(model, rng)
    names = "".join(params["ragaf"])
    assert ("gamma_" in names) == (way == "bias") and ("feature_" in names) == (way == "features")
    assert_all_gradients(model, params, random_batch(rng, config))


def test_every_ragaf_parameter_gets_a_gradient_after_one_step(rng):
    config = tiny_config(2)
    config.train.sketch_dropout = 0.0
    model, tx = build_model(config), optimizer(config.train)
    objective = objective_of(config, tiny_tokenizer())
    state = initial_state(config, model, tx, jax.jit(model.init)(random_key(rng)))
    step = jax.jit(functools.partial(train_step, model, tx, 0.9, objective))
    # The learning rate is 0 at step 0: the second update is the first that moves anything.
    for _ in range(2):
        state, _ = step(jax.random.key(0), state, random_batch(rng, config))
    assert_all_gradients(model, state.params, random_batch(rng, config))


def test_shares_are_area_averages(rng):
    labels = jnp.asarray(rng.integers(0, 5, (2, 12, 12)), jnp.int32)
    shares = np.asarray(region_shares(labels, 7, 3))
    np.testing.assert_allclose(shares.sum(-1), 1, rtol=1e-6)
    for p in range(9):
        row, column = 4 * (p // 3), 4 * (p % 3)
        cell = labels[1, row : row + 4, column : column + 4]
        expected = np.bincount(cell.ravel(), minlength=7) / 16
        np.testing.assert_allclose(shares[1, p], expected, rtol=1e-6)
    with pytest.raises(ValueError, match="does not divide"):
        region_shares(labels, 7, 5)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_coarser_shares_are_those_counted_anew(rng, factor):
    labels = jnp.asarray(rng.integers(0, 5, (2, 24, 24)), jnp.int32)
    shares = coarser(region_shares(labels, 7, 8), factor)
    np.testing.assert_allclose(shares, region_shares(labels, 7, 8 // factor), rtol=1e-6)


def test_pooling_is_the_mean_over_a_region(rng):
    labels = jnp.asarray(rng.integers(0, 3, (1, 8, 8)), jnp.int32)
    features = jnp.asarray(rng.standard_normal((1, 8, 8, 4)), jnp.float32)
    pooled = np.asarray(pool_regions(features, region_shares(labels, 4, 8)))
    for region in range(3):
        np.testing.assert_allclose(
            pooled[0, region], features[labels == region].mean(0), rtol=1e-4, atol=1e-6
        )
    assert (pooled[0, 3] == 0).all()
