"""Textual inversions: files of both layouts, names in prompts, and files that are refused."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from ragaf_jax.errors import UserError
from ragaf_jax.sampling.prompts.embeddings import read_embeddings, split, unknown_placeholders

WIDTH = 8


def write(folder, name, tensors):
    save_file({key: np.asarray(x, np.float32) for key, x in tensors.items()}, folder / name)
    return folder / name


@pytest.fixture
def files(rng, tmp_path):
    one, three = rng.standard_normal(WIDTH), rng.standard_normal((3, WIDTH))
    write(tmp_path, "learned_embeds.safetensors", {"<cat-toy>": one})
    write(tmp_path, "Bad Hands.safetensors", {"emb_params": three})
    write(tmp_path, "star.safetensors", {"*": one[None]})
    (tmp_path / "readme.txt").write_text("no embedding")
    return tmp_path


def test_both_layouts_from_a_folder_or_from_files(files):
    found, _ = read_embeddings([files], (WIDTH,))
    names = {key: (one.name, one.vectors.shape) for key, one in found.items()}
    assert names == {
        "<cat-toy>": ("<cat-toy>", (1, WIDTH)),
        "bad hands": ("Bad Hands", (3, WIDTH)),
        "star": ("star", (1, WIDTH)),
    }
    (alone,) = read_embeddings([files / "star.safetensors"], (WIDTH,))[0].values()
    assert alone.path == files / "star.safetensors" and len(alone.sha256) == 64
    assert read_embeddings([], (WIDTH,)) == ({}, [])


def test_names_in_prompts(files):
    found, _ = read_embeddings([files], (WIDTH,))

    def named(text):
        return [x if isinstance(x, str) else x.name.upper() for x in split(text, found)]

    assert named("a <CAT-toy>, bad hands") == ["a ", "<CAT-TOY>", ", ", "BAD HANDS", ""]
    assert named("embedding:star x") == ["", "STAR", " x"]
    assert named("starlight superstar") == ["starlight superstar"]
    assert split("a star", {}) == ["a star"]
    assert unknown_placeholders("a <dog-toy> < b > c") == ["<dog-toy>"]
    with pytest.raises(UserError, match="no embedding 'stra'; did you mean 'star'"):
        split("embedding:stra", found)
    with pytest.raises(UserError, match="Known: none is loaded. Give its file by --embedding"):
        split("embedding:star", {})


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"emb_params": np.zeros((2, 4))}, "'x' in .* has width 4 and the text encoder 8; use an"),
        ({"emb_params": np.full((1, WIDTH), np.nan)}, "'x' in .* has NaN or infinite values"),
        ({"clip_g": np.zeros((1, 12)), "clip_l": np.zeros((1, 8))}, "is for Stable Diffusion XL"),
        ({"conv.weight": np.zeros((2, 2, 3, 3))}, "is no textual inversion: its tensors are conv"),
        ({}, "has no tensors"),
    ],
)
def test_wrong_files_are_refused(tmp_path, tensors, message):
    with pytest.raises(UserError, match=message):
        read_embeddings([write(tmp_path, "x.safetensors", tensors)], (WIDTH,))


def test_files_of_a_folder_for_other_models_are_skipped(files):
    write(files, "xl.safetensors", {"clip_g": np.zeros((1, 12)), "clip_l": np.zeros((1, WIDTH))})
    write(files, "wide.safetensors", {"emb_params": np.zeros((1, 12))})
    found, skipped = read_embeddings([files], (WIDTH,))
    assert set(found) == {"<cat-toy>", "bad hands", "star"}
    assert [line.startswith("Skipped: The embedding") for line in skipped] == [True, True]


WIDTHS = (WIDTH, 12)
L, G = np.ones((2, WIDTH)), np.ones((2, 12))


def test_vectors_for_both_text_encoders_of_sdxl(rng, tmp_path):
    """In the order in which its network joins their states, under the file's name."""
    one, two = rng.standard_normal((2, WIDTH)), rng.standard_normal((2, 12))
    path = write(tmp_path, "Cat Toy.safetensors", {"clip_g": two, "clip_l": one})
    write(tmp_path, "single.safetensors", {"clip_g": two[0], "clip_l": one[0]})
    write(tmp_path, "sd15.safetensors", {"emb_params": one})
    found, skipped = read_embeddings([tmp_path], WIDTHS)
    assert {name: x.vectors.shape for name, x in found.items()} == {
        "cat toy": (2, WIDTH + 12),
        "single": (1, WIDTH + 12),
    }
    expected = np.concatenate([one, two], 1).astype(np.float32)
    np.testing.assert_array_equal(found["cat toy"].vectors, expected)
    assert found["cat toy"].name == "Cat Toy" and found["cat toy"].path == path
    assert len(skipped) == 1 and skipped[0].startswith("Skipped: The embedding")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"emb_params": L}, "tensors emb_params, expected clip_l and clip_g for the two text enc"),
        ({"<cat>": L}, "has the tensors <cat>, expected clip_l and clip_g .* of Stable Diffusion"),
        ({"clip_g": G}, "has the tensors clip_g, expected clip_l and clip_g for the two text enc"),
        ({"clip_g": G, "clip_l": G}, "'x' in .* has width 12 and the text encoder 8; use an emb"),
        ({"clip_g": G[:1], "clip_l": L}, "'x' in .* has 2 and 1 vectors for the text encoders, e"),
        ({"clip_g": G * np.nan, "clip_l": L}, "'x' in .* has NaN or infinite values"),
        ({"conv.weight": np.zeros((2, 2, 3, 3))}, "is no textual inversion: its tensors are conv"),
    ],
)
def test_wrong_files_for_sdxl_are_refused(tmp_path, tensors, message):
    with pytest.raises(UserError, match=message) as error:
        read_embeddings([write(tmp_path, "x.safetensors", tensors)], WIDTHS)
    assert "\n" not in str(error.value)


def test_other_paths_are_refused(files):
    for path, message in (
        (files / "none.safetensors", "There is no embedding"),
        (files / "readme.txt", "with the suffix '.txt'"),
        (files / "old.pt", "is a pickle"),
    ):
        (files / "old.pt").write_bytes(b"PK")
        with pytest.raises(UserError, match=message):
            read_embeddings([path], (WIDTH,))
    (files / "empty").mkdir()
    with pytest.raises(UserError, match="has no .safetensors file"):
        read_embeddings([files / "empty"], (WIDTH,))
    other = write(files / "empty", "STAR.safetensors", {"emb_params": np.zeros((1, WIDTH))})
    with pytest.raises(UserError, match="The embedding 'STAR' is in .* and in .*; give one"):
        read_embeddings([files, other], (WIDTH,))
