"""Encodes captions as token ids, by the data's vocabulary or Stable Diffusion's tokenizer.

The first has whole words, and is built and stored with the prepared data. The second is CLIP's
byte-level BPE. Every checkpoint stores its tokenizer, so that sampling needs neither data nor
network access. Sequences are CLIP's: BOS, tokens, EOS, padding. The padding token is EOS unless the
tokenizer has another one (SD 2 uses "!").
"""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from jaxtyping import Bool, Int
from tokenizers import models, normalizers, pre_tokenizers, trainers

from ragaf_jax.errors import UserError

BOS, EOS, UNKNOWN = "<|startoftext|>", "<|endoftext|>", "<|unknown|>"

# Names of CLIP's class in tokenizer_config.json; the second is from transformers 4.
CLIP_CLASSES = ("CLIPTokenizer", "CLIPTokenizerFast")


class Tokenizer:
    """A vocabulary, with CLIP's start, end and padding tokens."""

    def __init__(self, inner: tokenizers.Tokenizer):
        """Wraps a `tokenizers.Tokenizer` that has BOS and EOS but does not add them."""
        self._inner = inner
        vocabulary = inner.get_vocab()
        self._bos, self._eos = vocabulary[BOS], vocabulary[EOS]
        self._unknown = vocabulary.get(UNKNOWN, -1)  # CLIP's has no such token
        self._pad = inner.padding["pad_id"] if inner.padding else self._eos
        self._pieces = {token_id: piece for piece, token_id in vocabulary.items()}

    @classmethod
    def train(cls, captions: Iterable[str], vocab_size: int = 4096) -> "Tokenizer":
        """The most frequent words and punctuation marks of `captions`, in a fixed order."""
        inner = _of_words(models.WordLevel(unk_token=UNKNOWN))
        trainer = trainers.WordLevelTrainer(
            vocab_size=vocab_size, special_tokens=[BOS, EOS, UNKNOWN], show_progress=False
        )
        inner.train_from_iterator(captions, trainer)
        return cls(inner)

    @classmethod
    def union(cls, parts: Sequence["Tokenizer"], vocab_size: int = 4096) -> "Tokenizer":
        """The union of vocabularies of several data sets, each from `train`.

        Words are ordered by their best rank, so that beyond `vocab_size` each vocabulary loses its
        rarest words. The order of `parts` has no effect, and a single vocabulary is unchanged.
        """
        rank: dict[str, int] = {}
        for part in parts:
            for word, place in part._inner.get_vocab().items():
                rank[word] = min(place, rank.get(word, place))
        # BOS, EOS and UNKNOWN are the first three of every part.
        words = sorted(rank, key=lambda word: (rank[word], word))[:vocab_size]
        vocabulary = {word: place for place, word in enumerate(words)}
        inner = _of_words(models.WordLevel(vocabulary, unk_token=UNKNOWN))
        inner.add_special_tokens([BOS, EOS, UNKNOWN])
        return cls(inner)

    @classmethod
    def from_pretrained(cls, folder: Path, padding: str | None = None) -> "Tokenizer":
        """The tokenizer in `folder`, the `tokenizer/` of a Stable Diffusion checkpoint.

        The files are read once by transformers' `CLIPTokenizer`; ids are equal to its ids.
        `padding` overrides the padding token of the folder.
        """
        _check_folder(folder)
        # Suppresses the warning of transformers that PyTorch is missing.
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        import transformers  # here, because the import takes seconds

        try:
            theirs = transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
            inner = theirs.backend_tokenizer
            # `encode` adds BOS and EOS, truncates and pads; the JSON stores only the padding token.
            inner.post_processor = None
            inner.no_truncation()
            pad = theirs.pad_token if padding is None else padding
            inner.enable_padding(pad_id=theirs.convert_tokens_to_ids(pad), pad_token=pad)
        except Exception as error:  # tokenizers raises plain Exception
            raise _unreadable(folder, error) from None
        # transformers adds tokens that the vocabulary lacks; these do not count.
        vocabulary = inner.get_vocab(with_added_tokens=False)
        for ours, named in ((BOS, theirs.bos_token), (EOS, theirs.eos_token)):
            if ours not in vocabulary or named != ours:
                raise UserError(
                    f"The vocabulary in {folder} has no {ours} as start or end token, unlike "
                    "CLIP's; use the tokenizer of a Stable Diffusion checkpoint."
                )
        return cls(inner)

    @classmethod
    def from_json(cls, text: str) -> "Tokenizer":
        """The inverse of `to_json`."""
        try:
            return cls(tokenizers.Tokenizer.from_str(text))
        except Exception as error:  # tokenizers raises plain Exception
            raise UserError(
                f"The tokenizer cannot be read ({error}); prepare the data again or use another "
                "checkpoint."
            ) from None

    def to_json(self) -> str:
        """The tokenizer as JSON."""
        return self._inner.to_str()

    def save_pretrained(self, folder: Path) -> None:
        """Writes `folder` for transformers' CLIPTokenizer, or the JSON of a word vocabulary."""
        folder.mkdir(parents=True, exist_ok=True)
        whole = json.loads(self.to_json())
        model = whole["model"]
        if model["type"] != "BPE":
            (folder / "tokenizer.json").write_text(self.to_json(), encoding="utf-8")
            return
        merges = [x if isinstance(x, str) else " ".join(x) for x in model["merges"]]
        flags = ("content", "lstrip", "normalized", "rstrip", "single_word")
        added = {x["content"]: {flag: x[flag] for flag in flags} for x in whole["added_tokens"]}
        frame = {"bos_token": added[BOS], "eos_token": added[EOS], "unk_token": added[EOS]}
        pad = self._pieces[self._pad]
        special = frame | {"pad_token": added.get(pad, pad)}
        config = {name: {"__type": "AddedToken", **token} for name, token in frame.items()} | {
            "tokenizer_class": CLIP_CLASSES[0],
            "model_max_length": 77,
            "pad_token": pad,
        }
        texts = {
            "vocab.json": json.dumps(model["vocab"], ensure_ascii=False),
            "merges.txt": "\n".join(["#version: 0.2", *merges, ""]),
            "special_tokens_map.json": json.dumps(special, indent=2),
            "tokenizer_config.json": json.dumps(config, indent=2),
        }
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")

    def padded_with(self, token_id: int) -> "Tokenizer":
        """The same vocabulary with another padding token."""
        inner = tokenizers.Tokenizer.from_str(self.to_json())
        inner.enable_padding(pad_id=token_id, pad_token=self._pieces[token_id])
        return Tokenizer(inner)

    @property
    def vocab_size(self) -> int:
        """The number of ids."""
        return self._inner.get_vocab_size()

    def encode(
        self, captions: Sequence[str], length: int
    ) -> tuple[Int[np.ndarray, "n t"], Bool[np.ndarray, "n t"]]:
        """Token ids, and a mask that is False on padding; captions are cut to `length`."""
        # One by one, because a batch is padded to its longest caption.
        return self.framed([self.ids(caption) for caption in captions], length)

    def ids(self, text: str) -> list[int]:
        """The token ids of an uncut text, without BOS and EOS."""
        return self._inner.encode(text).ids

    def framed(
        self, rows: Sequence[Sequence[int]], length: int
    ) -> tuple[Int[np.ndarray, "n t"], Bool[np.ndarray, "n t"]]:
        """As `encode`, of token ids without BOS and EOS."""
        tokens = np.full((len(rows), length), self._pad, np.int32)
        mask = np.zeros((len(rows), length), bool)
        for row, words in enumerate(rows):
            ids = [self._bos, *words[: length - 2], self._eos]
            tokens[row, : len(ids)] = ids
            mask[row, : len(ids)] = True
        return tokens, mask

    def count(self, caption: str) -> tuple[int, int]:
        """The number of tokens of an uncut caption with BOS and EOS, and of unknown words."""
        ids = self._inner.encode(caption).ids
        return len(ids) + 2, ids.count(self._unknown)

    def spans(self, caption: str) -> Int[np.ndarray, "n 2"]:
        """The characters [begin, end) of each token of an uncut caption, without BOS and EOS.

        Token i is at index 1 + i of the result of `encode`, unless it is cut off.
        """
        return np.array(self._inner.encode(caption).offsets, np.int64).reshape(-1, 2)

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The text of each id, with CLIP's "</w>" at the end of words.

        Incomplete characters keep the vocabulary's byte symbols.
        """
        return [self._text(self._pieces[int(i)]) for i in ids]

    def _text(self, piece: str) -> str:
        decoder = self._inner.decoder
        if decoder is None:
            return piece  # a word
        stem = piece.removesuffix("</w>")
        text = decoder.decode([stem])
        return piece if "\N{REPLACEMENT CHARACTER}" in text else text + piece[len(stem) :]

    def words(self) -> list[str] | None:
        """The sorted words of the vocabulary; None if it encodes any text."""
        if not isinstance(self._inner.model, models.WordLevel):
            return None
        special = {token.content for token in self._inner.get_added_tokens_decoder().values()}
        known = self._inner.get_vocab(with_added_tokens=True).keys() - special - {UNKNOWN}
        return sorted(word for word in known if any(map(str.isalnum, word)))

    def unknown_words(self, caption: str) -> list[str]:
        """The words of a caption that the vocabulary lacks; CLIP's lacks none."""
        encoding = self._inner.encode(caption)
        return [
            caption[start:end]
            for token, (start, end) in zip(encoding.tokens, encoding.offsets, strict=True)
            if token == UNKNOWN
        ]


def _of_words(model: models.WordLevel) -> tokenizers.Tokenizer:
    """A tokenizer of lower-case words, split at spaces and punctuation."""
    inner = tokenizers.Tokenizer(model)
    inner.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return inner


def _check_folder(folder: Path) -> None:
    """Refuses folders that transformers would download or mistake for CLIP's."""
    if not folder.is_dir():
        raise UserError(
            f"There is no folder {folder}; give the tokenizer/ of a Stable Diffusion checkpoint."
        )
    config = folder / "tokenizer_config.json"
    try:
        fields = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
        name = fields.get("tokenizer_class", CLIP_CLASSES[0])
    except (ValueError, AttributeError) as error:
        raise _unreadable(config, error) from None
    if name not in CLIP_CLASSES:
        raise UserError(
            f"{folder} holds a {name}, but only a CLIPTokenizer can be used; "
            "use the tokenizer of a Stable Diffusion 1, 2 or XL checkpoint."
        )
    if (folder / "tokenizer.json").is_file():  # complete; transformers 5 writes no other file
        return
    missing = [file for file in ("vocab.json", "merges.txt") if not (folder / file).is_file()]
    if missing:
        raise UserError(
            f"The tokenizer in {folder} has no {' and no '.join(missing)}; download it again."
        )


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"The tokenizer in {path} cannot be read ({error}); download it again.")
