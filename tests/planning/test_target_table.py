"""Plans of devices that are not here: the command, its table, and one real compilation of each."""

import importlib.util
import re

import jax
import pytest
from commands import run_here
from fakes import command_flags, smallest_config

from ragaf_jax.errors import UserError
from ragaf_jax.planning import target_table as tables
from ragaf_jax.planning.compiled import Account
from ragaf_jax.planning.hlo import Collective
from ragaf_jax.planning.plan import GIB, Plan, Setting, own_setting, plan
from ragaf_jax.planning.roofline import bound
from ragaf_jax.planning.sampling import PartPlan, part_plans, sampling_table
from ragaf_jax.planning.target_table import contents, open_targets, target_table
from ragaf_jax.runtime.targets import Target, open_target

has_cuda = importlib.util.find_spec("jax_cuda12_plugin") is not None
has_tpu = importlib.util.find_spec("libtpu") is not None


@pytest.fixture
def h200(monkeypatch):
    """What devices of targets are called."""
    monkeypatch.setattr(Target, "kind", "NVIDIA H200")


def fake(name="h200", count=1):
    return Target(name, "cuda", jax.devices()[:1] * count, 100 * GIB, 4.8e12, {})


def test_what_binds_is_the_slower_of_products_and_memory(h200, monkeypatch):
    target = fake()
    fast = bound(989e12, 4.8e12 / 2, target, "bfloat16")
    assert fast is not None and fast.seconds == 1.0 and fast.by == "arithmetic"
    slow = bound(989e12, 4.8e12 * 3, target, "bfloat16")
    assert slow is not None and slow.seconds == 3.0 and slow.by == "memory"
    assert bound(1.0, None, target, "bfloat16") is None
    monkeypatch.setattr(Target, "kind", "NVIDIA H300")
    unknown = bound(989e12, 4.8e12, target, "bfloat16")
    assert unknown is not None and unknown.by == "memory (peak FLOP/s unknown)"


def test_contents_are_listed():
    needs = Account(1, 1, 1.0)
    found = {"all-reduce": Collective(2, 3_000_000_000)}
    lines = contents(needs._replace(collectives=found, attention={"cuDNN": 32}))
    assert lines[0] == "collectives: 2 all-reduce, 3 GB"
    assert lines[1].startswith("attention: 32 cuDNN; the rest")
    assert contents(needs)[0] == "collectives: none" and "no kernels" in contents(needs)[1]


def made(setting, peak, moved: float | None = 4.8e9):
    found = {"all-gather": Collective(3, 10**9)}
    needs = Account(GIB, int(peak * GIB), 7.0, moved, 9e9, found)
    return Plan(setting, 10**6, 0, 1e12, 100 * GIB, needs)


def test_each_target_has_a_row_with_the_setting_that_fits(h200):
    config = smallest_config(1)
    own, other = own_setting(config), Setting("blocks", 2, "text")
    config.model.dtype = "bfloat16"
    tried = [[made(own, 50)], [made(own, 120, None), made(other, 90)], [made(own, 120, None)]]
    targets = [fake(), fake("a"), fake("b")]
    text = target_table(config, targets, tried)
    header, *rows = (re.split(r" {2,}", line) for line in text.splitlines()[2:6])
    first, second, third = (dict(zip(header, row, strict=True)) for row in rows)
    images = config.train.batch_size
    assert first["peak GiB"] == "50.00" and first["fits"] == "yes"
    assert first["TFLOP"] == f"{images}" and first["bound by"] == "arithmetic"
    least = images * 1e12 / 989e12
    assert float(first["least ms"]) == pytest.approx(1e3 * least, rel=1e-3)
    assert float(first["images/s"]) == pytest.approx(images / least, rel=1e-3)
    assert second["remat"] == "blocks" and second["compiled in s"] == "14"
    assert "a: 1 × NVIDIA H200, mesh data=1, fsdp=1" in text
    flags = "--config.model.remat=blocks --config.train.accumulation=2 --config.data.cache=text"
    assert f"The cheapest of 2 settings that fits: {flags}" in text
    assert third["fits"] == "no" and third["least ms"] == "–" and "No setting fits" in text
    assert text.count("The compiler refuses it") == 1 and text.count("3 all-gather, 1 GB") == 2
    assert "bytes by XLA's own analysis, including on-chip memory: 9 GB" in text
    assert "XLA_CLIENT_MEM_FRACTION" in text and "by timing them" in text


def test_each_bucket_of_a_target_has_a_row(h200):
    """And a setting fits only if all its buckets do."""
    config = smallest_config(1)
    own, other = own_setting(config), Setting("blocks", 1, "")
    tried = [
        made(own, 90)._replace(bucket="24x12"),
        made(own, 110)._replace(bucket="16x16"),
        made(other, 80)._replace(bucket="24x12"),
        made(other, 70)._replace(bucket="16x16"),
    ]
    text = target_table(config, [fake()], [tried])
    header, *rows = (re.split(r" {2,}", line) for line in text.splitlines()[2:5])
    found = [dict(zip(header, row, strict=True)) for row in rows]
    assert [row["size"] for row in found] == ["24x12", "16x16"]
    assert {row["remat"] for row in found} == {"blocks"}
    assert [row["peak GiB"] for row in found] == ["80.00", "70.00"]
    assert {row["compiled in s"] for row in found} == {"14"}
    assert "fsdp=1, 24x12 px" in text and "The cheapest of 2 settings that fits" in text
    refused = target_table(config, [fake()], [tried[:2]])
    assert "No setting fits" in refused and " yes " in refused


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mesh.fsdp": 3}, "config.mesh is data=-1, fsdp=3 and there are 8 devices"),
        ({"train.batch_size": 4}, "config.train.batch_size is 4, which 8 devices"),
    ],
)
def test_a_mesh_that_does_not_divide_the_devices_is_refused(changes, said, monkeypatch):
    """Before anything is compiled for the targets named before it."""
    monkeypatch.setattr(tables, "open_target", lambda name: fake(name, count=int(name)))
    config = smallest_config(1)
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=f"--target=8: {said}"):
        open_targets(["8"], config)


def test_a_part_that_is_refused_has_no_rate(h200):
    """A rate would be without this part's time."""
    parts = [
        PartPlan(name, 1, Account(1, GIB, 1.0, moved))
        for name, moved in (("begin", 1e9), ("advance", None), ("decode", 1e9))
    ]
    for refused in (parts, parts[1:2]):
        text = sampling_table(smallest_config(1), [fake()], [refused], 1)
        assert "The compiler refuses a part" in text
        assert "nan" not in text and "images/s" not in text.partition("least ms:")[0]


def command(*flags):
    config = smallest_config(1)
    config.train.batch_size = 8
    given = ["--mode=plan", "--config=configs/stage1.py:quickstart", *command_flags(config)]
    return run_here("main.py", *given, *flags)


def test_an_unknown_target_ends_the_command_in_a_sentence():
    done = command("--target=h20")
    assert done.status == 1 and "There is no target 'h20'; the nearest is h200." in done.stderr


@pytest.mark.targets
@pytest.mark.products
@pytest.mark.skipif(not has_cuda, reason="needs the wheels of plan-cuda")
def test_a_step_is_compiled_for_eight_gpus():
    done = command("--target=h200x8")
    assert done.status == 0, done.stderr
    header, row = (re.split(r" {2,}", line) for line in done.stdout.splitlines()[2:4])
    found = dict(zip(header, row, strict=True))
    assert found["target"] == "h200x8" and found["fits"] == "yes"
    assert 0 < float(found["GB moved"]) < 1
    assert "8 × NVIDIA H200, mesh data=8, fsdp=1" in done.stdout
    assert re.search(r"collectives: .*\d+ all-reduce", done.stdout)


@pytest.mark.targets
@pytest.mark.products
@pytest.mark.skipif(not has_tpu, reason="needs the wheels of plan-tpu")
def test_a_step_is_compiled_for_a_tpu_slice():
    config = smallest_config(1)
    config.mesh.data, config.mesh.fsdp = 1, -1
    found = plan(config, None, open_target("v5e-4"))[0].account
    assert found.argument_bytes < found.peak_bytes < GIB
    assert found.moved_bytes is not None and found.moved_bytes > found.argument_bytes
    assert "all-gather" in found.collectives


@pytest.mark.targets
@pytest.mark.products
@pytest.mark.skipif(not has_cuda, reason="needs the wheels of plan-cuda")
def test_sampling_is_compiled_part_by_part():
    config, target = smallest_config(1), open_target("h200")
    parts = part_plans(config, target, 2)
    assert [part.name for part in parts] == ["begin", "advance", "decode"]
    assert all(part.account.moved_bytes for part in parts)
    assert parts[1].flops > parts[0].flops > 0  # Haar's decoder has no products
    text = sampling_table(config, [target], [parts], 2)
    assert f"2 images in {config.sample.steps} steps: " in text and "1 × NVIDIA H200" in text
