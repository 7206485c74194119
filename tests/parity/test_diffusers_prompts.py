"""Textual inversions against diffusers, from files in the layouts of diffusers and A1111."""

import dataclasses

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

import diffusers  # noqa: E402
import torch_models  # noqa: E402
import transformers  # noqa: E402
from fakes import smallest_config  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402
from test_tokenizer import write_folder  # noqa: E402

from ragaf_jax.nets.build import build_model  # noqa: E402
from ragaf_jax.sampling.conditions import weighted  # noqa: E402
from ragaf_jax.sampling.prompts.embeddings import read_embeddings  # noqa: E402
from ragaf_jax.sampling.prompts.windows import make_texts, read_prompt  # noqa: E402
from ragaf_jax.tokenizer import Tokenizer  # noqa: E402
from ragaf_jax.weights.modules import load_network  # noqa: E402
from ragaf_jax.weights.pretrained import open_pretrained  # noqa: E402


@pytest.mark.parametrize("skip", [None, 1])
def test_textual_inversions(rng, tmp_path, skip):
    theirs = torch_models.save_stable_diffusion(tmp_path / "sd", "sd1", rng, **torch_models.SMALL)
    write_folder(tmp_path / "sd" / "tokenizer")
    width = torch_models.TEXT_WIDTH
    vectors = {n: rng.standard_normal((n, width)).astype(np.float32) for n in (1, 3)}
    save_file({"<red-horse>": vectors[1][0]}, tmp_path / "learned_embeds.safetensors")
    save_file({"emb_params": vectors[3]}, tmp_path / "hothouse.safetensors")
    prompt, negative = "a <red-horse> in a hothouse, red", "hothouse"

    tokenizer = transformers.CLIPTokenizer.from_pretrained(tmp_path / "sd" / "tokenizer")
    pipe = diffusers.StableDiffusionPipeline(
        theirs["vae"],
        theirs["text_encoder"],
        tokenizer,
        theirs["unet"],
        theirs["scheduler"],
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    # Its place before transformers 5, where diffusers still looks for the final norm.
    object.__setattr__(theirs["text_encoder"], "text_model", theirs["text_encoder"])
    pipe.load_textual_inversion(tmp_path / "learned_embeds.safetensors")
    pipe.load_textual_inversion(  # diffusers reads this layout from pickles alone
        {"string_to_param": {"*": torch.from_numpy(vectors[3])}, "name": "hothouse"},
        token="hothouse",
    )
    with torch.no_grad():
        expected = pipe.encode_prompt(
            prompt, "cpu", 1, True, negative_prompt=negative, clip_skip=skip
        )

    embeddings, _ = read_embeddings([tmp_path], [width])
    ours = Tokenizer.from_pretrained(tmp_path / "sd" / "tokenizer")
    encoder, params = load_network(open_pretrained(str(tmp_path / "sd")).text_encoder)
    model = dataclasses.replace(
        build_model(smallest_config(1)), text_encoder=encoder, text_length=77
    )
    encode = jax.jit(
        lambda text: weighted(model.encode_text({"text_encoder": params}, text)).states
    )
    read = [read_prompt(text, ours, 77, embeddings) for text in (prompt, negative)]
    texts = make_texts(read[0], [], read[1], ours, 77)
    assert [one.name for one in read[0].embeddings] == ["<red-horse>", "hothouse"]
    skips = None if skip is None else np.int32([skip])
    # diffusers skips no layers of the negative prompt, unlike its lpw_stable_diffusion and A1111.
    pairs = (texts.positive, skips), (texts.negative, None)
    for (text, skips), states in zip(pairs, expected, strict=True):
        found = encode(text._replace(skip=skips))
        error = np.linalg.norm(found - states.numpy()) / np.linalg.norm(states.numpy())
        assert error <= 1e-5
