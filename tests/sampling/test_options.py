"""Effects of settings that a user may not expect are reported."""

import pytest

from ragaf_jax.sampling.options import setting_notices

USUAL = {"guidance": 3.0, "sketch_guidance": 1.0, "sketch_strength": 1.0}


@pytest.mark.parametrize(
    ("settings", "notice"),
    [
        ({"guidance": 0.0}, "guidance is 0, so the prompt has no effect"),
        ({"guidance": -2.0}, "guidance is -2, which guides the image away from the prompt."),
        ({"sketch_guidance": 0.0}, "sketch_guidance is 0, so the sketch acts only through the"),
        ({"sketch_guidance": -1.5}, "sketch_guidance is -1.5, which guides the image away from t"),
        ({"sketch_strength": 0.0}, "sketch_strength is 0, so the sketch branch has no effect"),
        ({"sketch_strength": -1.0}, "sketch_strength is -1, which subtracts what the sketch bran"),
        ({"negative_prompt": "red", "guidance": 1.0}, "guidance is 1, so the negative prompt has"),
    ],
)
def test_a_setting_with_an_unexpected_effect_is_reported(settings, notice):
    (found,) = setting_notices({**USUAL, **settings})
    assert found.startswith(notice) and found.endswith(".")


@pytest.mark.parametrize(
    ("settings", "notice"),
    [
        ({"guidance": 0.0}, "guidance is 0, but the UNet reads it as an input and was trained"),
        ({"guidance": -2.0}, "guidance is -2, but the UNet reads it as an input"),
        ({"negative_prompt": "red"}, "The UNet reads the guidance scale as an input, so the negat"),
    ],
)
def test_guidance_that_the_unet_reads_has_notices_of_its_own(settings, notice):
    (found,) = setting_notices({**USUAL, **settings}, reads_guidance=True)
    assert found.startswith(notice) and found.endswith(".")


def test_usual_settings_give_no_notice():
    assert setting_notices({**USUAL, "negative_prompt": "red"}) == []
    assert setting_notices({**USUAL, "guidance": 1.0}) == []
    assert setting_notices({**USUAL, "guidance": 1.0}, reads_guidance=True) == []
    negative = {"negative_prompt": "red", "sketch_guidance": 2.0}
    assert setting_notices({**USUAL, **negative}, reads_guidance=True) == []
    assert (
        setting_notices(
            {**USUAL, "negative_prompt": "red", "guidance": 1.0} | {"sketch_guidance": 2.0}
        )
        == []
    )
