"""Writes prompts.npz: the states of `values.PROMPTS` by diffusers' lpw_stable_diffusion.

    python tests/golden/make_prompts.py lpw_stable_diffusion.py

The file is examples/community/lpw_stable_diffusion.py of diffusers (58eb52c0 of 2026-08-23). This
needs the parity extra. The text encoder has the weights of `values.py`, in float64.
"""

import importlib.util
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import transformers

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "parity"), str(HERE.parent), str(HERE)]

import torch_models  # noqa: E402
import values  # noqa: E402
from make import named  # noqa: E402
from test_tokenizer import write_folder  # noqa: E402


@torch.no_grad()
def main(path):
    """Writes the states of each prompt and negative prompt."""
    spec = importlib.util.spec_from_file_location("lpw", path)
    lpw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lpw)
    with tempfile.TemporaryDirectory() as folder:
        folder = write_folder(Path(folder) / "tokenizer")
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    assert tokenizer.model_max_length == 77
    encoder = named(torch_models.text_encoder("sd1", np.random.default_rng(0)))
    object.__setattr__(encoder, "text_model", encoder)  # its place before transformers 5
    pipe = SimpleNamespace(tokenizer=tokenizer, text_encoder=encoder, device="cpu")
    arrays = {}
    for i, (prompt, negative) in enumerate(values.PROMPTS):
        for skip in values.SKIPS:
            states = lpw.get_weighted_text_embeddings(pipe, prompt, negative, clip_skip=skip)
            for name, text in zip(("positive", "negative"), states, strict=True):
                arrays[f"{i}/{skip}/{name}"] = np.float32(text[0].numpy())
    np.savez_compressed(HERE / "prompts.npz", **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
