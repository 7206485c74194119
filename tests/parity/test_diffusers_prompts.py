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


def error(found, expected):
    """‖a − b‖ / ‖b‖."""
    return np.linalg.norm(found - expected.numpy()) / np.linalg.norm(expected.numpy())


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

    texts, encode, names = ours(tmp_path, tmp_path / "sd", prompt, negative)
    assert names == ["<red-horse>", "hothouse"]
    skips = None if skip is None else np.int32([skip])
    # diffusers skips no layers of the negative prompt, unlike its lpw_stable_diffusion and A1111.
    pairs = (texts.positive, skips), (texts.negative, None)
    for (text, skips), states in zip(pairs, expected, strict=True):
        assert error(encode(text._replace(skip=skips)).states, states) <= 1e-5


def ours(files, checkpoint, prompt, negative):
    """Our texts, a function that encodes one, and the names of embeddings in the prompt."""
    encoder, params = load_network(open_pretrained(str(checkpoint)).text_encoder)
    embeddings, _ = read_embeddings([files], encoder.config.widths)
    tokenizer = Tokenizer.from_pretrained(checkpoint / "tokenizer")
    model = dataclasses.replace(
        build_model(smallest_config(1)), text_encoder=encoder, text_length=77
    )
    encode = jax.jit(lambda text: weighted(model.encode_text({"text_encoder": params}, text)))
    read = [read_prompt(text, tokenizer, 77, embeddings) for text in (prompt, negative)]
    texts = make_texts(read[0], [], read[1], tokenizer, 77)
    return texts, encode, [one.name for one in read[0].embeddings]


def test_textual_inversions_of_sdxl(rng, tmp_path):
    """Vectors of both text encoders in one file, in the states and in the pooled text."""
    folder = tmp_path / "xl"
    theirs = torch_models.save_sdxl(folder, rng)
    encoders = theirs["text_encoder"], theirs["text_encoder_2"]
    tokenizers = [
        transformers.CLIPTokenizer.from_pretrained(
            write_folder(folder / name, number, "slow with added tokens")
        )
        for number, name in enumerate(("tokenizer", "tokenizer_2"), 1)
    ]
    vectors = {
        name: rng.standard_normal((2, width)).astype(np.float32)
        for name, width in zip(("clip_l", "clip_g"), torch_models.XL_WIDTHS, strict=True)
    }
    save_file(vectors, tmp_path / "hothouse.safetensors")
    prompt, negative = "a red hothouse, house", "hothouse"
    rest = theirs["unet"], theirs["scheduler"]
    pipe = diffusers.StableDiffusionXLPipeline(
        theirs["vae"], *encoders, *tokenizers, *rest, add_watermarker=False
    )
    # With SDXL's published id 2, transformers pools an added token, which has the highest id.
    encoders[1].text_model.eos_token_id = tokenizers[1].eos_token_id
    for tensor, tokenizer, encoder in zip(vectors.values(), tokenizers, encoders, strict=True):
        given = {"text_encoder": encoder, "tokenizer": tokenizer}
        pipe.load_textual_inversion(torch.from_numpy(tensor), token="hothouse", **given)
    with torch.no_grad():
        expected = pipe.encode_prompt(prompt, device="cpu", negative_prompt=negative)

    texts, encode, names = ours(tmp_path, folder, prompt, negative)
    assert names == ["hothouse"]
    pairs = zip((texts.positive, texts.negative), expected[:2], expected[2:], strict=True)
    for text, states, pooled in pairs:
        found = encode(text)
        assert error(found.states, states) <= 1e-5
        assert error(found.pooled, pooled) <= 1e-5
