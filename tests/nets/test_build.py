import pytest
from fakes import tiny_config
from written import XL_TEXTS, XL_UNET, XL_VAE

from configs import stage1
from ragaf_jax.errors import UserError
from ragaf_jax.nets.build import build_model
from ragaf_jax.nets.text.sdxl import SdxlTextConfig
from ragaf_jax.training.adopt import fields_of, with_fields


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("data.image_size", 18, "need a multiple of 4"),
        ("model.autoencoder", "vq", "expected 'haar' or 'kl'"),
        ("model.dtype", "float33", "float33"),
        ("model.clip_skip", 1, "the text encoder has 1 layers"),
        ("model.unet.block_out_channels", (33,), "33"),
        ("model.unet.block_out_channels", (32, 32), "expected 2 of"),
        ("model.unet.cross_attention_dim", 24, "hidden_size 16; they must be equal"),
        ("model.conditioning_channels", (8, 16), "need 3 numbers"),
        ("model.ragaf.fusion", "blend", "expected one of"),
        ("model.ragaf.heads", 3, "not a multiple"),
        ("model.ragaf.inject", ("paint",), "expected some of"),
    ],
)
def test_what_does_not_fit_ends_in_one_sentence(field, value, said):
    config = tiny_config(2)
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match="config") as error:
        build_model(config)
    assert said in str(error.value)


@pytest.mark.parametrize(("side", "cells"), [(1024, 152 * 104), (512, 0)])
def test_sizes_of_sdxl_are_decoded_at_once(side, cells):
    """Its 1216 × 832 px would need two tiles, with group norms of their own."""
    sizes = fields_of(XL_UNET, SdxlTextConfig(*XL_TEXTS.values()), XL_VAE, {})
    config = with_fields(stage1.get_config("openmoji_sdxl"), sizes | {"data.image_size": side})
    whole = build_model(config).autoencoder.whole
    assert cells <= whole <= 1.5 * cells * 1.04


def test_stage_1_has_no_ragaf():
    assert build_model(tiny_config(1)).ragaf is None
    assert build_model(tiny_config(2)).ragaf is not None


def test_stage_2_without_injection_has_no_ragaf():
    config = tiny_config(2)
    config.model.ragaf.inject = ()
    assert build_model(config).ragaf is None
    del config.model.ragaf["inject"]  # as in the checkpoints of before there was a choice
    assert build_model(config).ragaf.config.inject == ("features", "bias")
