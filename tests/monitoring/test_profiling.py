import jax
import jax.numpy as jnp
import pytest

from ragaf_jax.errors import UserError
from ragaf_jax.monitoring.profiling import Profile, parse_window


def traces(folder):
    return sorted(folder.rglob("*.xplane.pb"))


def test_a_window_of_steps():
    assert parse_window("100:110") == range(100, 110)
    assert parse_window("") == range(0)


@pytest.mark.parametrize("text", ["100", "110:100", "5:5", "0:3", "-3:4", "a:b", "1:2:3", ":"])
def test_what_is_no_window(text):
    with pytest.raises(UserError, match=f"--profile is '{text}'; give the first step"):
        parse_window(text)


def test_the_steps_of_the_window_are_traced(tmp_path):
    double = jax.jit(lambda x: 2 * x)
    state = jnp.ones(3)
    found = []
    with Profile(range(2, 4), tmp_path / "profile") as profile:
        for step in range(1, 6):
            profile.at(step, state)
            state = double(state)
            found.append(len(traces(tmp_path)))
    assert found == [0, 0, 0, 1, 1]  # written before step 4
    assert traces(tmp_path)[0].stat().st_size > 0


def test_a_run_that_fails_or_ends_inside_leaves_a_trace_and_no_profiler(tmp_path):
    def fails():
        with Profile(range(1, 9), tmp_path / "a") as profile:
            profile.at(5)  # resumed in the middle
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert len(traces(tmp_path / "a")) == 1
    with Profile(range(1, 9), tmp_path / "b") as profile:  # JAX refuses a second one at a time
        profile.at(1)
    assert len(traces(tmp_path / "b")) == 1


def test_no_window_no_trace(tmp_path):
    with Profile(parse_window(""), tmp_path / "profile") as profile:
        for step in range(3):
            profile.at(step)
    assert list(tmp_path.iterdir()) == []
