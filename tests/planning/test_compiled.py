"""The compiler's account, and programs that it refuses."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ragaf_jax.errors import UserError
from ragaf_jax.planning.compiled import account, refused_bytes
from ragaf_jax.runtime.targets import Target

GIB = 2**30


def test_what_a_refused_program_needs_is_read():
    refused = "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
    assert refused_bytes(f"{refused}temporaries (24.50G) exceeds available HBM (15.75G).") == (
        24.5 * GIB
    )
    other = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 17.41G of 15.75G hbm."
    assert refused_bytes(other) == int(17.41 * GIB)
    assert refused_bytes("INVALID_ARGUMENT: Used 17.41G of 15.75G hbm.") is None
    assert refused_bytes("RESOURCE_EXHAUSTED: too many open files") is None


@pytest.fixture
def mesh():
    return Mesh(jax.devices()[:1], ("data",), axis_types=(AxisType.Auto,))


@pytest.fixture
def target(mesh):
    return Target("v5e-1", "cpu", list(mesh.devices), 15 * GIB, 1e12, {})


class Refused:
    """A function that cannot be compiled."""

    def __init__(self, problem):
        self.problem = problem

    def trace(self, *arguments):
        raise self.problem


def shapes(mesh):
    place = NamedSharding(mesh, PartitionSpec())
    return (jax.ShapeDtypeStruct((3, 5), jnp.float32, sharding=place),)


def test_a_refused_program_keeps_its_numbers(mesh, target):
    problem = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Used 17.00G of 15.75G hbm.")
    found = account(Refused(problem), shapes(mesh), mesh, target)
    assert found.argument_bytes == 4 * 3 * 5 and found.peak_bytes == 17 * GIB
    assert found.moved_bytes is None and found.results is None
    with pytest.raises(jax.errors.JaxRuntimeError):
        account(Refused(problem), shapes(mesh), mesh, None)


@pytest.mark.parametrize(
    "message", ["cuDNN not found.", "NOT_FOUND: Couldn't find a suitable version of ptxas."]
)
def test_missing_libraries_are_named_by_their_extra(message, mesh, target):
    with pytest.raises(UserError, match=r"--target=v5e-1 .* run pip install -e '.\[plan-cuda\]'"):
        account(Refused(RuntimeError(message)), shapes(mesh), mesh, target)


def test_a_program_is_accounted_for(mesh, target):
    found = account(jax.jit(lambda x: (x @ x.T, x.sum())), shapes(mesh), mesh, target)
    assert found.argument_bytes == 60 and found.peak_bytes >= 60 + 36 + 4
    assert found.moved_bytes is not None and found.moved_bytes >= 60 + 36
    assert [x.shape for x in found.results] == [(3, 3), ()]
    assert all(x.sharding.device_set == {jax.devices()[0]} for x in found.results)
