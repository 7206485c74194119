"""Token ids of word vocabularies, and of CLIP's against transformers' tokenizer."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

from ragaf_jax.errors import UserError
from ragaf_jax.tokenizer import BOS, EOS, Tokenizer

ROOT = Path(__file__).parents[1]
LENGTH = 77
PADDING = {1: EOS, 2: "!"}  # of Stable Diffusion 1.x and 2.x
LAYOUTS = ("slow", "slow with added tokens", "fast", "transformers 5")

# What the miniature vocabulary has merges for, bytes being spelt as in CLIP's.
MERGED = ("house", "hot", "horse", "red", "it", "'s", "...", "!!", "Ã©tÃ©", "ç«", "ðŁĺĢ", "12")

CORNER_CASES = {
    "empty": "",
    "blank": " \t\n\u00a0\u2003\u3000 ",
    "capitals": "A HOUSE, a House; a hOUSE",
    "apostrophes": "it's the house's, they'll we've I'm he'd don't 's'' 'tis rock'n'roll ’s",
    "emphasis": "a (red:1.2) [house] ((horse)) {hot|red} <lora:house:0.8> house++ --no red AND it",
    "punctuation": '!, !!, a!b ... .. ?! /\\ "red" – — … «été» & % $ # @ ~ ` ^ _ = + *',
    "digits": "12 houses, 1234567890, 3.5e-7, ½ ² ⅷ ١٢٣ １２",
    "accents": "été E\u0301TE\u0301 Ångström a\u030angstro\u0308m İstanbul ß ẞ ﬁ ŉ \u0345",
    "scripts": "красный дом 赤い家 빨간 집 בית אדום بيت أحمر लाल घर บ้านสีแดง",
    "emoji": "😀 a😀b 👩‍🎨 🏳️‍🌈 ❤️ 🇫🇷 ☺",
    "whitespace": "  a\thouse\r\n\x0b\x0c\x85red\u2028horse\u200bhot\ufeff  ",
    "control": "a\x00house \x01\x7f \ufffd \U0010ffff",
    "frame": f"{EOS} a {BOS}house{EOS}{EOS} red {EOS.upper()} <|endoftext <|unknown|>",
    "lookalikes": "house</w> </w> Ġhouse Ã© [PAD] <pad> <unk> \\n \\u0041",
    "long word": "house" * 200,
    "long caption": "a red house on fire, " * 40,
}

# Special cases of normalisation, splitting and merging, for random texts.
ALPHABET = [
    *"aehorsuidtAEHORS   ''!.,:()<|>/\\wé½12\u0301\u00a0\t\n\x85\x00\u2028\u200dİǅẞ😀",
    *("house", " house", "HORSE", "red ", "'s", "'LL", "!!", "...", "ça", "дом", "赤い", "立", "क्"),
    *("</w>", BOS, EOS),
]


def vocabulary():
    """Words in the order of their ids, and merges: CLIP's file in miniature, "!" is 0."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words, merges = [*alphabet, *(f"{byte}</w>" for byte in alphabet)], []
    for word in MERGED:
        for end in ("", "</w>"):
            parts = [*word[:-1], word[-1] + end]
            while len(parts) > 1:
                if "".join(parts[:2]) not in words:
                    words.append("".join(parts[:2]))
                    merges.append(" ".join(parts[:2]))
                parts[:2] = ["".join(parts[:2])]
    return [*words, BOS, EOS], merges


def write_json(path, content):
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def token(content, **more):
    flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    return {"content": content, **flags, **more}


def write_folder(folder, version=1, layout=LAYOUTS[0]):
    """A `tokenizer/` as the checkpoints of Stable Diffusion have it, in one of several layouts."""
    pad = PADDING[version]
    words, merges = vocabulary()
    folder.mkdir(parents=True)
    write_json(folder / "vocab.json", {word: i for i, word in enumerate(words)})
    lines = ["#version: 0.2", *merges, ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    frame = {"bos_token": token(BOS), "eos_token": token(EOS), "unk_token": token(EOS)}
    config = {name: {"__type": "AddedToken", **value} for name, value in frame.items()} | {
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": LENGTH,
        "pad_token": EOS,  # SD 2's files disagree: special_tokens_map.json is the one that counts.
        "tokenizer_class": "CLIPTokenizer",
    }
    special = frame | {"pad_token": pad if version == 1 else token(pad)}
    if layout == "slow with added tokens":  # As SDXL's, whose second tokenizer pads with "!".
        ids = {content: words.index(content) for content in {pad, BOS, EOS}}
        added = {ids[content]: token(content, special=True) for content in ids}
        config |= {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": pad}
        config["added_tokens_decoder"] = added
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "tokenizer_config.json", config)
    if layout == "fast":
        tokenizer = CLIPTokenizer.from_pretrained(folder)
        # transformers also saves the last padding and truncation of its caller.
        tokenizer(["a"], padding="max_length", max_length=9, truncation=True)
        tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
        write_json(
            folder / "tokenizer_config.json",
            config | {"tokenizer_class": "CLIPTokenizerFast"},
        )
    if layout == "transformers 5":
        tokenizer = CLIPTokenizer.from_pretrained(folder)
        shutil.rmtree(folder)
        tokenizer.save_pretrained(folder)
        assert not (folder / "vocab.json").exists()
    return folder


@pytest.fixture(params=LAYOUTS)
def layout(request) -> str:
    return request.param


@pytest.fixture(params=PADDING, ids=lambda version: f"sd{version}")
def version(request) -> int:
    return request.param


def random_texts(rng, count):
    return ["".join(rng.choice(ALPHABET, rng.integers(1, 60))) for _ in range(count)]


def assert_same(ours, theirs, texts, length=LENGTH):
    """Equal to a call of transformers' tokenizer as the diffusers pipelines make it."""
    expected = theirs(list(texts), padding="max_length", max_length=length, truncation=True)
    tokens, mask = ours.encode(texts, length)
    for i, text in enumerate(texts):
        assert tokens[i].tolist() == expected.input_ids[i], repr(text)
        assert mask[i].tolist() == [x == 1 for x in expected.attention_mask[i]], repr(text)


def test_ids_are_those_of_transformers(tmp_path, rng, version, layout):
    folder = write_folder(tmp_path / "tokenizer", version, layout)
    ours, theirs = Tokenizer.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder)
    texts = [*CORNER_CASES.values(), *random_texts(rng, 500)]
    assert_same(ours, theirs, texts)
    assert_same(ours, theirs, texts, length=8)
    assert_same(ours, theirs, texts, length=2)
    assert_same(Tokenizer.from_json(ours.to_json()), theirs, texts)
    assert_same(pickle.loads(pickle.dumps(ours)), theirs, texts)
    assert ours.vocab_size == len(theirs)


def test_layouts_of_the_folder_agree(tmp_path, rng, version):
    texts = [*CORNER_CASES.values(), *random_texts(rng, 200)]
    # Whether capitals spell a special token is a setting that the layouts of SD 1 differ in.
    texts = [text for text in texts if EOS.upper() not in text]
    found = [
        Tokenizer.from_pretrained(write_folder(tmp_path / str(i), version, layout))
        for i, layout in enumerate(LAYOUTS)
    ]
    tokens, mask = found[0].encode(texts, LENGTH)
    for tokenizer in found[1:]:
        again = tokenizer.encode(texts, LENGTH)
        np.testing.assert_array_equal(again[0], tokens)
        np.testing.assert_array_equal(again[1], mask)


@pytest.fixture
def clip(tmp_path) -> Tokenizer:
    return Tokenizer.from_pretrained(write_folder(tmp_path / "clip"))


@pytest.fixture
def clip2(tmp_path) -> Tokenizer:
    return Tokenizer.from_pretrained(write_folder(tmp_path / "clip2", version=2))


def test_words_are_framed_and_padded(clip, clip2):
    words, _ = vocabulary()
    pieces = [BOS, "house</w>", "'s</w>", "red</w>", EOS]
    expected = [words.index(piece) for piece in pieces]
    for tokenizer, pad in ((clip, words.index(EOS)), (clip2, 0)):
        tokens, mask = tokenizer.encode(["House's RED", ""], 8)
        assert tokens.tolist() == [
            [*expected, pad, pad, pad],
            [expected[0], expected[-1], *[pad] * 6],
        ]
        assert mask.tolist() == [[True] * 5 + [False] * 3, [True] * 2 + [False] * 6]
        assert tokens.dtype == np.int32


def test_a_long_caption_keeps_its_frame(clip, clip2):
    for tokenizer in (clip, clip2):
        tokens, mask = tokenizer.encode(["house " * 100], LENGTH)
        pieces = tokenizer.pieces(tokens[0].tolist())
        assert pieces == [BOS, *["house</w>"] * (LENGTH - 2), EOS] and mask.all()


def test_a_caption_that_ends_with_the_padding_is_no_padding(clip2):
    tokens, mask = clip2.encode(["red !"], 6)
    assert clip2.pieces(tokens[0].tolist()) == [BOS, "red</w>", "!", EOS, "!", "!"]
    assert mask[0].tolist() == [True, True, True, True, False, False]


def test_captions_do_not_depend_on_their_company(clip, rng):
    texts = random_texts(rng, 30)
    together, _ = clip.encode(texts, LENGTH)
    alone = np.concatenate([clip.encode([text], LENGTH)[0] for text in texts])
    np.testing.assert_array_equal(together, alone)
    assert clip.encode([], LENGTH)[0].shape == (0, LENGTH)


def test_pieces_are_readable(clip):
    def pieces(text):
        tokens, mask = clip.encode([text], LENGTH)
        return clip.pieces(tokens[mask].tolist())[1:-1]

    assert pieces("House, houses") == ["house</w>", ",</w>", "house", "s</w>"]
    assert pieces("été 😀") == ["été</w>", "😀</w>"]
    # No merges: each byte of д is a token, and half a character is no text.
    assert pieces("д") == ["Ð", "´</w>"]
    assert pieces(EOS) == [EOS]


def test_nothing_is_unknown_to_byte_level(clip, rng):
    for text in [*CORNER_CASES.values(), *random_texts(rng, 100)]:
        assert clip.unknown_words(text) == []


def test_configuration_files_may_be_missing(tmp_path):
    folder = write_folder(tmp_path / "tokenizer")
    expected = Tokenizer.from_pretrained(folder).encode(["a red house"], LENGTH)[0]
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        (folder / name).unlink()
        tokens, _ = Tokenizer.from_pretrained(folder).encode(["a red house"], LENGTH)
        np.testing.assert_array_equal(tokens, expected)


def test_what_cannot_be_used_is_said(tmp_path):
    good = write_folder(tmp_path / "good")

    def refused(match, **files):
        """A copy of the good folder with these files replaced (None: removed) does not load."""
        folder = tmp_path / "spoilt"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(good, folder)
        for name, content in files.items():
            path = folder / f"{name}.{'txt' if name == 'merges' else 'json'}"
            path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(UserError, match=match) as error:
            Tokenizer.from_pretrained(folder)
        assert str(folder) in str(error.value) and "\n" not in str(error.value)

    with pytest.raises(UserError, match=f"no folder {tmp_path / 'none'}; give the tokenizer/ of"):
        Tokenizer.from_pretrained(tmp_path / "none")
    with pytest.raises(UserError, match="no folder"):
        Tokenizer.from_pretrained(good / "vocab.json")

    refused(r"has no vocab\.json; download", vocab=None)
    refused(r"has no merges\.txt; download", merges=None)
    refused(r"has no vocab\.json and no merges\.txt; download", vocab=None, merges=None)
    vocab, merges = (good / "vocab.json").read_bytes(), (good / "merges.txt").read_bytes()
    for content in (b"", vocab[:-100], b"[]", b'{"a": "b"}', b"\xff\xfe\x00"):
        refused("cannot be read .*; download it again", vocab=content)
    for content in (b"#version: 0.2\nh", b"#version: 0.2\nzz qq", merges[:-3], b"\xff\xfe\x00"):
        refused("cannot be read .*; download it again", merges=content)
    for content in (b"", b"[]", b"{"):
        refused("cannot be read .*; download it again", tokenizer_config=content)
        refused("cannot be read .*; download it again", special_tokens_map=content)
    for content in (b"", b"{}", b'{"added_tokens": []}'):
        refused("cannot be read .*; download it again", tokenizer=content)
    for name in ("T5Tokenizer", "T5TokenizerFast", "BertTokenizer"):
        config = json.dumps({"tokenizer_class": name}).encode()
        refused(f"holds a {name}, but only a CLIPTokenizer", tokenizer_config=config, vocab=None)

    words = json.loads(vocab)
    for missing in (BOS, EOS):
        fewer = json.dumps({word: i for word, i in words.items() if word != missing}).encode()
        refused(f"has no {missing.replace('|', '[|]')}", vocab=fewer)
    other = json.dumps({"bos_token": "house</w>"}).encode()
    refused("as start or end token", special_tokens_map=other)


@pytest.mark.parametrize("installed", (True, False), ids=("with torch", "without torch"))
def test_no_torch_and_no_notices(tmp_path, installed):
    """Empty packages with metadata stand in for both; None in sys.modules hides them."""
    for name in ("tensorflow", "torch"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        metadata = tmp_path / f"{name}-2.99.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.99\n")
    script = """
        import sys
        from pathlib import Path
        if sys.argv[2] == "False":
            sys.modules["tensorflow"] = sys.modules["torch"] = None
        from ragaf_jax.tokenizer import Tokenizer
        assert "transformers" not in sys.modules  # It is slow to import.
        Tokenizer.from_pretrained(Path(sys.argv[1])).encode(["a red house"], 77)
        from transformers.utils import is_torch_available
        assert is_torch_available() == (sys.argv[2] == "True")
        assert not sys.modules.get("torch") and not sys.modules.get("tensorflow")
    """
    folder = write_folder(tmp_path / "tokenizer", version=2)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    environment.pop("TRANSFORMERS_NO_ADVISORY_WARNINGS", None)
    command = [sys.executable, "-c", textwrap.dedent(script), str(folder), str(installed)]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_words_of_our_own_are_padded_with_the_end():
    tokenizer = Tokenizer.train(["a red house", "a blue house"])
    text = tokenizer.to_json()
    assert json.loads(text)["padding"] is None  # As checkpoints have it that know no other padding.
    again = Tokenizer.from_json(text)
    for same in (tokenizer, again):
        tokens, mask = same.encode(["A red horse", "a house " * 9], 6)
        assert same.pieces(tokens[0].tolist()) == [BOS, "a", "red", "<|unknown|>", EOS, EOS]
        assert same.pieces(tokens[1].tolist()) == [BOS, "a", "house", "a", "house", EOS]
        assert mask.tolist() == [[True] * 5 + [False], [True] * 6]
        assert same.unknown_words("A red Horse") == ["Horse"]
    assert again.to_json() == text


@pytest.mark.parametrize("version", PADDING)
def test_a_saved_folder_is_transformers_own(tmp_path, rng, version):
    original = write_folder(tmp_path / "theirs", version)
    ours = Tokenizer.from_pretrained(original)
    ours.save_pretrained(tmp_path / "ours")
    assert Tokenizer.from_pretrained(tmp_path / "ours").to_json() == ours.to_json()
    texts = [*CORNER_CASES.values(), "".join(rng.choice(ALPHABET, 60))]
    theirs = [CLIPTokenizer.from_pretrained(tmp_path / name) for name in ("theirs", "ours")]
    before, after = (
        tokenizer(texts, padding="max_length", max_length=LENGTH, truncation=True).input_ids
        for tokenizer in theirs
    )
    assert before == after


def test_the_padding_may_be_said(tmp_path):
    """A single file has no folder of its own, and Stable Diffusion 2 does not pad as 1 does."""
    folder = write_folder(tmp_path / "one", 1)
    tokens, _ = Tokenizer.from_pretrained(folder, "!").encode(["a house"], 9)
    expected, _ = Tokenizer.from_pretrained(write_folder(tmp_path / "two", 2)).encode(
        ["a house"], 9
    )
    np.testing.assert_array_equal(tokens, expected)
    assert tokens[0, -1] == 0


def test_spans_are_the_characters_of_each_token(clip, rng):
    words = Tokenizer.train(["a red house , été"])
    caption = "  A red, RED house's été: 😀ça "
    expected = ["A", "red", ",", "RED", "house", "'", "s", "été", ":", "😀ça"]
    assert [caption[begin:end] for begin, end in words.spans(caption)] == expected
    assert words.spans("").shape == (0, 2)
    for text in random_texts(rng, 200):
        ids = clip.encode([text], LENGTH)[0][0]
        spans = clip.spans(text)
        assert len(spans) == clip.count(text)[0] - 2
        for token, (begin, end) in zip(clip.pieces(ids[1:-1].tolist()), spans, strict=False):
            piece = token.removesuffix("</w>")
            if piece.isascii() and text[begin:end].isascii():
                assert text[begin:end].lower() == piece
