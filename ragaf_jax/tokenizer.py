"""Captions to token ids and back: a word-level vocabulary built when the data was prepared.

It is stored with the data and in every checkpoint, so that sampling needs neither the data nor a
network. Sequences look like CLIP's: BOS, words, EOS, then EOS as padding.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import tokenizers
from jaxtyping import Bool, Int
from tokenizers import models, normalizers, pre_tokenizers, trainers

from ragaf_jax.errors import UserError

BOS, EOS, UNKNOWN = "<|startoftext|>", "<|endoftext|>", "<|unknown|>"


class Tokenizer:
    """A vocabulary with CLIP's framing."""

    def __init__(self, inner: tokenizers.Tokenizer):
        """Wraps a `tokenizers.Tokenizer` that knows BOS, EOS and UNKNOWN."""
        self._inner = inner
        vocabulary = inner.get_vocab()
        self._bos, self._eos = vocabulary[BOS], vocabulary[EOS]
        self._pieces = {token_id: piece for piece, token_id in vocabulary.items()}

    @classmethod
    def train(cls, captions: Iterable[str], vocab_size: int = 4096) -> "Tokenizer":
        """The most frequent words and punctuation marks of `captions`, in a fixed order."""
        inner = tokenizers.Tokenizer(models.WordLevel(unk_token=UNKNOWN))
        inner.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
        inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordLevelTrainer(
            vocab_size=vocab_size, special_tokens=[BOS, EOS, UNKNOWN], show_progress=False
        )
        inner.train_from_iterator(captions, trainer)
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
        """Everything that `from_json` needs."""
        return self._inner.to_str()

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""
        return self._inner.get_vocab_size()

    def encode(
        self, captions: Sequence[str], length: int
    ) -> tuple[Int[np.ndarray, "n t"], Bool[np.ndarray, "n t"]]:
        """Token ids, and the mask of those that are no padding; long captions lose their end."""
        tokens = np.full((len(captions), length), self._eos, np.int32)
        mask = np.zeros((len(captions), length), bool)
        for row, encoding in enumerate(self._inner.encode_batch(list(captions))):
            ids = [self._bos, *encoding.ids[: length - 2], self._eos]
            tokens[row, : len(ids)] = ids
            mask[row, : len(ids)] = True
        return tokens, mask

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The text of each id."""
        return [self._pieces[int(i)] for i in ids]

    def unknown_words(self, caption: str) -> list[str]:
        """The words of a caption that the vocabulary does not have."""
        encoding = self._inner.encode(caption)
        return [
            caption[start:end]
            for token, (start, end) in zip(encoding.tokens, encoding.offsets, strict=True)
            if token == UNKNOWN
        ]
