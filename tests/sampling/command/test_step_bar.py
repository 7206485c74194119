"""The bar of one image's steps."""

import pytest

from ragaf_jax.errors import UserError
from ragaf_jax.sampling.command.step_bar import step_bar
from ragaf_jax.sampling.loop import Progress


def test_the_last_step_is_shown_however_fast_they_are(capsys):
    with step_bar(4) as show:
        for stage in (1, 2):
            for step in (1, 2):
                show(Progress(stage, step, 2, None))
    last = capsys.readouterr().err.rstrip("\n").split("\r")[-1]
    assert last.startswith("stage 2: 100%|") and " 4/4 " in last


def test_an_error_before_the_first_step_leaves_no_empty_bar(capsys):
    with pytest.raises(UserError), step_bar(4):
        raise UserError("There is no region 9.")
    assert capsys.readouterr().err == ""
