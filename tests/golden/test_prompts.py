"""Weights, windows and clip skip of diffusers' lpw_stable_diffusion, kept in prompts.npz."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
import values
from fakes import smallest_config
from test_golden import written
from test_tokenizer import write_folder

from ragaf_jax.nets.build import build_model
from ragaf_jax.sampling.conditions import weighted
from ragaf_jax.sampling.prompts.windows import make_texts, read_prompt
from ragaf_jax.tokenizer import Tokenizer
from ragaf_jax.weights.modules import load_network
from ragaf_jax.weights.pretrained import open_pretrained

HERE = Path(__file__).parent
ANSWERS = np.load(HERE / "prompts.npz")


@pytest.fixture(scope="module")
def encode(tmp_path_factory):
    """A function of (prompt, negative prompt, layers to skip): the states of both."""
    folder = written(tmp_path_factory.mktemp("sd1"), "sd1")
    tokenizer = Tokenizer.from_pretrained(write_folder(folder / "tokenizer"))
    encoder, params = load_network(open_pretrained(str(folder)).text_encoder)
    model = build_model(smallest_config(1))
    model = dataclasses.replace(model, text_encoder=encoder, text_length=77)
    run = jax.jit(lambda text: weighted(model.encode_text({"text_encoder": params}, text)).states)

    def encoded(prompt, negative, skip=None):
        both = [read_prompt(text, tokenizer, 77, {}) for text in (prompt, negative)]
        texts = make_texts(both[0], [], both[1], tokenizer, 77)
        skips = None if skip is None else np.int32([skip])
        return [run(x._replace(skip=skips))[0] for x in (texts.positive, texts.negative)]

    return encoded


@pytest.mark.parametrize("skip", values.SKIPS)
@pytest.mark.parametrize("index", range(len(values.PROMPTS)))
def test_weighted_and_long_prompts(encode, index, skip):
    states = encode(*values.PROMPTS[index], skip)
    for name, ours in zip(("positive", "negative"), states, strict=True):
        theirs = ANSWERS[f"{index}/{skip}/{name}"]
        assert ours.shape == theirs.shape
        assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs)


def test_without_a_setting_no_layer_is_skipped(encode):
    for ours, theirs in zip(encode("a red house", ""), encode("a red house", "", 0), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
