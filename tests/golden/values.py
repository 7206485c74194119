"""Numbers that are the same wherever they are asked for: the golden tensors are not stored."""

import zlib

import numpy as np


def normal(name, *shape):
    """Standard normal numbers that depend on the name alone."""
    return (
        np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    )


def weight(name, shape):
    """A parameter: of variance 1 / fan-in, those of one axis around a half."""
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 4
    value = normal(name, *shape) * np.float32(fan_in**-0.5)
    return value if len(shape) > 1 else value + np.float32(0.5)


def uniform(name, *shape):
    """Numbers in [0, 1)."""
    return np.random.default_rng(zlib.crc32(name.encode())).random(shape).astype(np.float32)


def inputs(kind):
    """What the networks of a generation are given; sizes neither square nor even."""
    return {
        "latents": normal(f"{kind} latents", 2, 5, 7, 4),
        "timesteps": np.float32([17, 803]),
        "text": normal(f"{kind} text", 2, 7, 24),
        "sketch": uniform(f"{kind} sketch", 2, 40, 56, 3),
        "image": normal(f"{kind} image", 1, 27, 33, 3),
        "tokens": np.int32(uniform(f"{kind} tokens", 2, 77) * 600),
    }


# Of the schedulers: where a trajectory begins, and how many steps it takes.
START_SHAPE, STEPS = (2, 3, 3, 2), 5


def start():
    """Pure noise."""
    return normal("start", *START_SHAPE)


_LONG = ", ".join(f"{noun} {i}" for i, noun in enumerate(("red", "house", "door") * 9))
# Prompts and negative prompts, of one to three windows of 77 tokens.
PROMPTS = (
    ("a red house", ""),
    (r"a (red) house, [small (blue:1.4) door] and a (((sky:0.7))) \(literal\]", "(bad:1.2)"),
    ("((unclosed red (house:0.5), [door", "a ) door ] :1.3)"),
    (f"(a red house:1.3), {_LONG}, [[door]]", "(small:0.8) door"),
    ("a (red:1.2) house", f"{_LONG}, (bad:1.5)"),
)
# Layers of the text encoder to skip.
SKIPS = (0, 1)
