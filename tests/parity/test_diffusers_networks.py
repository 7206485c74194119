"""Every network against PyTorch's, from the files that diffusers and transformers write.

The references are computed in float64: in float32 PyTorch itself is now and then further than 1e-5
from the truth.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

import torch_models  # noqa: E402

from ragaf_jax.weights.modules import load_network  # noqa: E402
from ragaf_jax.weights.pretrained import open_control, open_pretrained  # noqa: E402

KINDS = ("sd1", "sd2")
TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=KINDS)
def both(request, tmp_path_factory, seed):
    """A whole checkpoint and a ControlNet: theirs in float64, and ours not yet loaded."""
    folder = tmp_path_factory.mktemp(request.param)
    rng = np.random.default_rng(seed)
    theirs = torch_models.save_stable_diffusion(folder / "sd", request.param, rng)
    faint(theirs["vae"]).save_pretrained(folder / "sd" / "vae")
    theirs["control"] = torch_models.control(theirs["unet"], rng)
    theirs["control"].save_pretrained(folder / "control")
    for name in ("unet", "vae", "text_encoder", "control"):
        theirs[name].double().requires_grad_(False)
    return theirs, open_pretrained(str(folder / "sd")), open_control(str(folder / "control"))


def faint(network):
    """With activations so small that the epsilon of each group norm counts."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                for parameter in module.parameters():
                    parameter.mul_(0.1)
    return network


def nchw(x):
    return torch.from_numpy(np.array(x)).double().permute(0, 3, 1, 2)


def error(ours, theirs):
    """‖a − b‖ / ‖b‖."""
    if theirs.ndim == 4:
        theirs = theirs.permute(0, 2, 3, 1)
    theirs = theirs.numpy()
    assert ours.shape == theirs.shape
    return np.linalg.norm(np.float64(ours) - theirs) / np.linalg.norm(theirs)


def normal(rng, *shape):
    return jnp.asarray(rng.standard_normal(shape), jnp.float32)


def either_size(of_sd1, of_sd2):
    """A size for each kind in the gate; and either kind at both, whose compilation takes long."""
    gate = {("sd1", of_sd1), ("sd2", of_sd2)}
    return [
        pytest.param(*x, marks=() if x in gate else pytest.mark.products, id=f"{x[0]}-{x[1]}")
        for x in itertools.product(KINDS, (of_sd1, of_sd2))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("both, size", either_size((8, 12), (7, 5)), indirect=["both"])
def test_unet_and_controlnet(rng, both, size):
    theirs, ours, ours_control = both
    x, text = normal(rng, 2, *size, 4), normal(rng, 2, 7, torch_models.TEXT_WIDTH)
    t = jnp.asarray(rng.integers(0, 1000, 2), jnp.float32)
    sketch = jnp.asarray(rng.random((2, 8 * size[0], 8 * size[1], 3)), jnp.float32)
    net, params = load_network(ours.unet)
    branch, branch_params = load_network(ours_control)

    @jax.jit
    def run(strength):
        down, mid, _ = branch.apply({"params": branch_params}, x, t, text, sketch, strength)
        return net.apply({"params": params}, x, t, text, down, mid), down, mid

    state = {
        "timestep": torch.from_numpy(np.array(t)).double(),
        "encoder_hidden_states": torch.from_numpy(np.array(text)).double(),
    }
    down, mid = theirs["control"](nchw(x), controlnet_cond=nchw(sketch), return_dict=False, **state)
    added = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
    plain = theirs["unet"](nchw(x), **state).sample
    drawn = theirs["unet"](nchw(x), **state, **added).sample
    ours_drawn, ours_down, ours_mid = run(jnp.float32(1))
    assert error(ours_drawn, drawn) <= TOLERANCE
    assert error(run(jnp.float32(0))[0], plain) <= TOLERANCE
    assert error(ours_drawn, plain) > 0.01
    for a, b in zip((*ours_down, ours_mid), (*down, mid), strict=True):
        assert error(a, b) <= TOLERANCE


@pytest.mark.parametrize("both, size", either_size((24, 16), (37, 43)), indirect=["both"])
def test_vae(rng, both, size):
    theirs, ours, _ = both
    net, params = load_network(ours.vae)
    image, latents = normal(rng, 1, *size, 3), normal(rng, 1, size[0] // 8, size[1] // 8, 4)
    encode, decode = (jax.jit(functools.partial(net.apply, method=m)) for m in ("encode", "decode"))
    mean, log_variance = encode({"params": params}, image)
    distribution = theirs["vae"].encode(nchw(image)).latent_dist
    assert error(mean, distribution.mean) <= TOLERANCE
    assert error(log_variance, distribution.logvar) <= TOLERANCE
    decoded = theirs["vae"].decode(nchw(latents)).sample
    assert error(decode({"params": params}, latents), decoded) <= TOLERANCE


@pytest.mark.parametrize("skip", [0, 1])
def test_text_encoder(rng, both, skip):
    theirs, ours, _ = both
    net, params = load_network(ours.text_encoder)
    net = dataclasses.replace(net, clip_skip=skip)
    tokens = rng.integers(0, torch_models.VOCABULARY, (3, 77)).astype(np.int32)
    states = jax.jit(net.apply)({"params": params}, tokens)
    encoder = theirs["text_encoder"]
    out = encoder(torch.from_numpy(tokens).long(), output_hidden_states=True)
    # As diffusers' pipelines do it.
    skipped = out.hidden_states[-(skip + 1)]
    final = getattr(encoder, "text_model", encoder).final_layer_norm
    assert error(states, final(skipped)) <= TOLERANCE
    if not skip:
        assert error(states, out.last_hidden_state) <= TOLERANCE
