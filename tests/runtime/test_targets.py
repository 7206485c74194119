"""Targets by name or file, and what is said where there is none."""

import importlib.util
import re

import pytest

from ragaf_jax.errors import UserError
from ragaf_jax.runtime.devices import TPU_MEMORIES, peak_flops
from ragaf_jax.runtime.gpu_memory import _FRACTIONS, _OTHERS, SHARE
from ragaf_jax.runtime.targets import _GPUS, SLICES, gpu_names, open_target

GIB = 2**30
has_cuda = importlib.util.find_spec("jax_cuda12_plugin") is not None
has_tpu = importlib.util.find_spec("libtpu") is not None


@pytest.fixture(autouse=True)
def default_share(monkeypatch):
    for name in (*_FRACTIONS, *_OTHERS):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("h20", "the nearest is h200[.]"),
        ("h200x", "h200x8"),
        ("rtx4900", "the nearest are .*rtx4090"),
        ("v5e-5", "v5e-4"),
        ("a100", "a100-40"),
        ("quantum", "there are a100-40, "),
    ],
)
def test_an_unknown_name_comes_with_the_nearest(name, near):
    with pytest.raises(UserError, match=f"There is no target '{name}'.*{near}.*by the path of a"):
        open_target(name)


def test_a_file_has_to_describe_a_gpu(tmp_path):
    with pytest.raises(UserError, match=r"does not name a file; give the path"):
        open_target(str(tmp_path / "card.txtpb"))
    (tmp_path / "folder.txtpb").mkdir()
    with pytest.raises(UserError, match=r"does not name a file; give the path"):
        open_target(str(tmp_path / "folder.txtpb"))
    for name, content in (("words.txtpb", b"a card"), ("picture.png", b"\x89PNG\xff\xfe")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(
            UserError, match=f"{name} describes no GPU: .*cuda_compute.*others must"
        ):
            open_target(str(tmp_path / name))
    whole = (_GPUS / "h200.txtpb").read_text()
    for name, given, wrong in (
        ("memory_bandwidth", "memory_bandwidth", "# memory_bandwidth"),
        ("core_count", "core_count: 132", ""),
        ("device_memory_size", "device_memory_size: 150109106995", "device_memory_size: 0"),
        ("device_description_str", '"NVIDIA H200"', '""'),
    ):
        (tmp_path / "half.txtpb").write_text(whole.replace(given, wrong))
        with pytest.raises(
            UserError, match=rf"half.txtpb describes no GPU: {name} must be present"
        ):
            open_target(str(tmp_path / "half.txtpb"))


def test_a_fraction_that_is_no_number_is_refused_before_jax_reads_it(monkeypatch):
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "abc")
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(UserError, match="XLA_CLIENT_MEM_FRACTION is 'abc'"):
        open_target("h200")


@pytest.mark.parametrize("name", ["h200x0", "h200x9", "h200x20", "h200x8000000"])
def test_hosts_are_full(name):
    with pytest.raises(
        UserError, match=rf"{name} has \d+ GPUs; give 1 to 8, or a multiple of 8 up to"
    ):
        open_target(name)


@pytest.mark.parametrize(
    ("name", "extra"), [("h200x8", "plan-cuda"), ("rtx4090", "plan-cuda"), ("v5e-4", "plan-tpu")]
)
def test_a_missing_wheel_is_named_by_its_extra(name, extra, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(UserError, match=rf"--target={name} needs .* to compile.*'\.\[{extra}\]'"):
        open_target(name)


def test_every_target_has_its_facts():
    """A GPU's peak is found by the name in its file, a slice's memory by its chips' name."""
    for name in gpu_names():
        text = (_GPUS / f"{name}.txtpb").read_text()
        kind = text.partition('device_description_str: "')[2].partition('"')[0]
        assert peak_flops(kind, "bfloat16"), kind
    kinds = {"v4": "TPU v4", "v5e": "TPU v5 lite", "v5p": "TPU v5", "v6e": "TPU v6 lite"}
    assert {name.partition("-")[0] for name in SLICES} == set(kinds)
    for kind in kinds.values():
        assert TPU_MEMORIES[kind].size > 15 * GIB and peak_flops(kind, "bfloat16")


@pytest.mark.targets
@pytest.mark.skipif(not has_cuda, reason="needs the wheels of plan-cuda")
@pytest.mark.parametrize(("name", "count"), [("rtx4090", 1), ("h100x8", 8), ("a100-80x16", 16)])
def test_gpus_are_described(name, count):
    target = open_target(name)
    assert target.platform == "cuda" and len(target.devices) == count
    assert target.kind.startswith("NVIDIA") and peak_flops(target.kind, "bfloat16")
    text = (_GPUS / f"{name.removesuffix(f'x{count}')}.txtpb").read_text()
    memory = re.search(r"device_memory_size: (\d+)", text)
    assert memory and target.usable_bytes == int(int(memory[1]) * SHARE)
    assert target.bandwidth > 1e12


@pytest.mark.targets
@pytest.mark.skipif(not has_cuda, reason="needs the wheels of plan-cuda")
def test_another_card_is_a_file(tmp_path):
    text = (_GPUS / "h200.txtpb").read_text()
    (tmp_path / "card.txtpb").write_text(text.replace("NVIDIA H200", "NVIDIA H300"))
    target = open_target(f"{tmp_path / 'card.txtpb'}x4")
    assert target.kind == "NVIDIA H300" and len(target.devices) == 4
    (tmp_path / "card.txtpb").write_text(text + "cores: 1")
    with pytest.raises(UserError, match=r"card.txtpb is no valid target \(.*compare it with"):
        open_target(str(tmp_path / "card.txtpb"))


@pytest.mark.targets
@pytest.mark.skipif(not has_tpu, reason="needs the wheels of plan-tpu")
@pytest.mark.parametrize(
    ("name", "count"), [("v4-8", 4), ("v5e-1", 1), ("v5e-8", 8), ("v5p-16", 8), ("v6e-4", 4)]
)
def test_slices_have_a_device_a_chip(name, count, capfd):
    target = open_target(name)
    assert "INVALID_ARGUMENT" not in capfd.readouterr().err  # of libtpu's first start
    assert target.platform == "tpu" and len(target.devices) == count
    assert target.usable_bytes == TPU_MEMORIES[target.kind].size
