"""A process takes more of a GPU than JAX's three quarters, unless the user has decided."""

import pytest

from ragaf_jax.errors import UserError
from ragaf_jax.runtime.gpu_memory import JAX_SHARE, SHARE, raise_share, share


def test_the_share_is_raised_where_nobody_set_it():
    environment: dict[str, str] = {}
    assert share(environment) == SHARE > JAX_SHARE  # what a command will have
    raise_share(environment)
    assert environment == {"XLA_CLIENT_MEM_FRACTION": str(SHARE)}
    raise_share(environment)
    assert share(environment) == SHARE


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("XLA_CLIENT_MEM_FRACTION", "0.5", 0.5),
        ("XLA_PYTHON_CLIENT_MEM_FRACTION", ".6", 0.6),  # JAX refuses both together
        ("XLA_PYTHON_CLIENT_PREALLOCATE", "false", JAX_SHARE),
        ("XLA_PYTHON_CLIENT_ALLOCATOR", "platform", JAX_SHARE),
    ],
)
def test_a_users_own_choice_stays_and_is_counted_with(name, value, expected):
    environment = {name: value}
    raise_share(environment)
    assert environment == {name: value} and share(environment) == expected


@pytest.mark.parametrize("value", ["half", "-1", "0", "nan"])
def test_a_share_that_is_none_is_refused(value):
    with pytest.raises(UserError, match=f"MEM_FRACTION is '{value}'; give the fraction of a GPU's"):
        share({"XLA_CLIENT_MEM_FRACTION": value})
