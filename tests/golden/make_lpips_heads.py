"""Writes LPIPS v0.1's linear weights into the package, from the files of the PyPI package `lpips`.

Run once, with PyTorch:

    pip install --no-deps lpips==0.1.4
    PYTHONPATH=. python tests/golden/make_lpips_heads.py

`ragaf_jax/evaluation/networks/lpips_heads.safetensors` has the tensors `alex.lin<i>.model.1.weight`
and `vgg.lin<i>.model.1.weight`, f32[1, c, 1, 1]. Beside it goes the licence, BSD-2-Clause.
"""

import importlib.metadata
import importlib.util
import shutil
from pathlib import Path

import torch

from ragaf_jax.weights.stores import save_tensors

PACKAGE = Path(__file__).parents[2] / "ragaf_jax" / "evaluation" / "networks"


def main():
    # Located, not imported: it imports torchvision.
    folder = Path(importlib.util.find_spec("lpips").origin).parent / "weights" / "v0.1"
    heads = {
        f"{net}.{name}": weight.numpy()
        for net in ("alex", "vgg")
        for name, weight in torch.load(folder / f"{net}.pth", "cpu", weights_only=True).items()
    }
    version = importlib.metadata.version("lpips")
    metadata = {"source": f"lpips {version}, weights/v0.1", "licence": "BSD-2-Clause"}
    save_tensors(PACKAGE / "lpips_heads.safetensors", heads, metadata)
    licence = next(file for file in importlib.metadata.files("lpips") if file.name == "LICENSE")
    shutil.copyfile(licence.locate(), PACKAGE / "lpips_heads.LICENSE")


if __name__ == "__main__":
    main()
