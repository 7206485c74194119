"""Keys of the caches that replace a run's frozen networks."""

import dataclasses
from collections.abc import Mapping

import jax
from ml_collections import ConfigDict

from ragaf_jax.caches import cached_kinds
from ragaf_jax.errors import UserError
from ragaf_jax.losses.objective import Objective
from ragaf_jax.nets.kl_autoencoder import KlAutoencoder
from ragaf_jax.nets.model import Model
from ragaf_jax.runtime.sharding import local_copy
from ragaf_jax.tokenizer import Tokenizer
from ragaf_jax.training.state import TrainState
from ragaf_jax.weights.fingerprint import latents_key, text_key


def cache_keys(
    config: ConfigDict, model: Model, state: TrainState, tokenizer: Tokenizer
) -> Mapping[str, str]:
    """The key that each cache of `config.data.cache` must have, by kind.

    Raises:
      UserError: the autoencoder has no weights, or the text encoder is trained.
    """
    keys = {}
    for kind in cached_kinds(config.data.cache, "config.data.cache"):
        if kind == "latents":
            if not isinstance(model.autoencoder, KlAutoencoder):
                raise UserError(
                    f"config.data.cache is {config.data.cache!r} and config.model.autoencoder "
                    f"{config.model.autoencoder!r}, whose latents need no cache; remove 'latents'."
                )
            vae = local_copy(state.frozen["autoencoder"])
            keys[kind] = latents_key(vae, model.autoencoder.vae.config)
        else:
            params = state.params
            if "text_encoder" in state.trainable or "text_encoder" in params.get("lora", {}):
                raise UserError(
                    f"config.data.cache is {config.data.cache!r} and the text encoder, or a LoRA "
                    "of it, is trained, so its states change with every step; remove 'text', or "
                    "train only other networks, such as 'control/.*'."
                )
            encoder = model.text_encoder
            keys[kind] = text_key(
                local_copy(params["text_encoder"]),
                encoder.config,
                encoder.clip_skip,
                tokenizer.to_json(),
            )
    return keys


def with_empty_states(objective: Objective, model: Model, state: TrainState) -> Objective:
    """The objective with the encoded empty prompt, which replaces dropped captions."""
    encode = jax.jit(model.encode_text)
    # `cache_keys` refused a LoRA of the text encoder, so its own parameters suffice.
    params = {"text_encoder": local_copy(state.params["text_encoder"])}
    text = jax.device_get(encode(params, objective.empty_text))
    return dataclasses.replace(objective, empty_text=text)
