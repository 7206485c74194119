"""CLIP's embeddings against transformers' CLIPModel, from the folder that it writes."""

import json

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

import transformers  # noqa: E402
from test_tokenizer import vocabulary, write_folder  # noqa: E402
from torch_models import generator, randomised  # noqa: E402
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil  # noqa: E402

from ragaf_jax.evaluation.networks.clip import preprocess  # noqa: E402
from ragaf_jax.evaluation.networks.weights import load_clip  # noqa: E402

TOLERANCE = 1e-5
WORDS = len(vocabulary()[0])
TEXTS = ["a red house", "", "HOT 12 horses!!", "it's été " * 40, "a 火 in the house"]

# A patch that does not fill the picture, OpenCLIP's activation, and how the end was found in 2022.
KINDS = {
    "whole patches": (32, 8, "quick_gelu", WORDS - 1),
    "a rest": (30, 7, "gelu", WORDS - 1),
    "before 2023": (28, 14, "quick_gelu", 2),
}


@pytest.fixture(scope="module", params=KINDS)
def both(request, tmp_path_factory, seed):
    """Theirs in float64 with its processor, and ours."""
    side, patch, activation, eos = KINDS[request.param]
    folder = write_folder(tmp_path_factory.mktemp("clip") / "clip")
    layers = {"num_hidden_layers": 3, "num_attention_heads": 4, "hidden_act": activation}
    text = {"vocab_size": WORDS, "hidden_size": 24, "intermediate_size": 40, "eos_token_id": eos}
    vision = {"hidden_size": 32, "intermediate_size": 48, "image_size": side, "patch_size": patch}
    config = transformers.CLIPConfig(
        text_config={**layers, **text, "bos_token_id": WORDS - 2, "max_position_embeddings": 77},
        vision_config={**layers, **vision},
        projection_dim=20,
    )
    theirs = transformers.CLIPModel(config)
    randomised(theirs, generator(np.random.default_rng(seed))).save_pretrained(folder)
    assert "text_config" in json.loads((folder / "config.json").read_text())
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
    processor.save_pretrained(folder)
    assert (folder / "preprocessor_config.json").exists()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    return theirs.double().requires_grad_(False), processor, tokenizer, load_clip(str(folder))


def error(ours, theirs):
    return np.linalg.norm(np.float64(ours) - theirs) / np.linalg.norm(theirs)


@pytest.mark.parametrize("size", [(32, 32), (61, 45), (19, 77), (240, 333)], ids=str)
def test_pictures(rng, both, size):
    theirs, processor, _, ours = both
    coarse = np.kron(rng.integers(0, 256, (3, 4, 4, 3)), np.ones((1, 85, 85, 1)))
    images = coarse[:, : size[0], : size[1]] + rng.normal(0, 40, (3, *size, 3))
    images = np.clip(images, 0, 255).astype(np.uint8)
    pixels = np.stack(processor([Image.fromarray(x) for x in images])["pixel_values"])
    seen = preprocess(images, ours.config.vision.image_size)
    np.testing.assert_allclose(seen, pixels.transpose(0, 2, 3, 1), atol=1e-6)
    expected = theirs.get_image_features(torch.from_numpy(pixels).double())
    expected = getattr(expected, "pooler_output", expected).numpy()
    found = ours.embed_images(images)
    print(f"{size}: {error(found, expected):.1e}; pictures {error(expected[0], expected[1]):.1e}")
    assert found.shape == expected.shape and error(found, expected) <= TOLERANCE
    assert error(expected[0], expected[1]) > 0.01


def test_texts(both):
    theirs, _, tokenizer, ours = both
    inputs = tokenizer(
        TEXTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    )
    expected = theirs.get_text_features(**inputs)
    expected = getattr(expected, "pooler_output", expected).numpy()
    found = ours.embed_texts(TEXTS)
    print(f"texts: {error(found, expected):.1e}; texts {error(expected[0], expected[1]):.1e}")
    assert found.shape == expected.shape and error(found, expected) <= TOLERANCE
    for i in range(1, len(TEXTS)):
        assert error(expected[0], expected[i]) > 0.01
