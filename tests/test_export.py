"""Outputs of `python -m ragaf_jax.export` for random stages, read without PyTorch."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import run_here
from fakes import random_stage, save_stage
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file

from ragaf_jax.checkpoints.checkpointer import Checkpointer
from ragaf_jax.errors import UserError
from ragaf_jax.evaluation.statistics.summary import Estimate, as_json
from ragaf_jax.export import measured
from ragaf_jax.nets.lora import merged
from ragaf_jax.sampling.stages import Stage
from ragaf_jax.weights.configs import networks as configs
from ragaf_jax.weights.configs.fits import check_control
from ragaf_jax.weights.lora_files import load_lora
from ragaf_jax.weights.names import unet_names
from ragaf_jax.weights.pretrained import open_control
from ragaf_jax.weights.save import CONTROL_FILE, torch_tensors, writers

ROOT = Path(__file__).parents[1]
LORA = {"model.lora.patterns": ("(unet|control)/.*/(to_q|conv1)",), "model.lora.rank": 2}


@pytest.fixture(scope="module")
def stage():
    """Stage 2 with adapters of the UNet and of the sketch branch."""
    places = {"data.dir": "/home/me/data", "stage1": "/home/me/stage1"}
    return random_stage(2, **LORA, **places, **{"model.clip_skip": 0})


@pytest.fixture(scope="module")
def workdir(stage, tmp_path_factory):
    folder = save_stage(stage, tmp_path_factory.mktemp("run"))
    (folder / "logs").mkdir()
    lines = [{"step": 1, "loss": 0.5}, {"step": 7, "loss": 0.25, "grad_norm": 3.0}]
    (folder / "logs" / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    estimated = as_json({"edge_f1": Estimate(0.75, 0.5, 1.0, 12)})
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "metrics.json").write_text(
        json.dumps({"metrics": {"stage 2": estimated}, "steps": {"stage 1": 5, "stage 2": 7}})
    )
    return folder


def export(workdir, output, *flags):
    """The command in this process."""
    return run_here("ragaf_jax.export", f"--workdir={workdir}", f"--output={output}", *flags)


@pytest.fixture(scope="module")
def exported(workdir):
    """The folder of everything, of a process of its own."""
    command = [sys.executable, "-m", "ragaf_jax.export", f"--workdir={workdir}"]
    command += [f"--output={workdir / 'exported'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return workdir / "exported"


def test_folders(exported):
    names = {path.name for path in exported.iterdir()}
    assert names == {
        *("controlnet", "unet", "text_encoder", "ragaf", "lora"),
        *("scheduler", "tokenizer", "README.md"),
    }
    for folder in names - {"scheduler", "tokenizer", "README.md"}:
        assert (exported / folder / "README.md").exists()
    # Permissions are those of the other files.
    modes = {path.stat().st_mode for path in exported.rglob("*") if path.is_file()}
    assert len(modes) == 1


def test_the_branch_is_written_with_its_adapters(stage, exported):
    expected = merged(stage.params["control"], stage.params["lora"]["control"])
    control = open_control(str(exported / "controlnet"))
    assert control.config.conditioning_channels == stage.model.control.conditioning_channels
    found = flatten_dict(control.load(jax.eval_shape(lambda: expected)), sep="/")
    for path, leaf in flatten_dict(expected, sep="/").items():
        np.testing.assert_allclose(found[path], leaf, rtol=1e-6, atol=1e-6, err_msg=path)


def test_the_branch_of_a_stable_diffusion_is_also_one_file(tmp_path):
    """In the original layout, which a run can start from as well, bit for bit."""
    usual = {
        "model.unet.block_out_channels": (32, 64),
        "model.unet.down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "model.unet.up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "model.unet.attention_head_dim": 8,
        "model.autoencoder": "kl",
        "model.vae.block_out_channels": (32, 32, 32),
        "model.vae.layers_per_block": 1,
    }
    stage = random_stage(1, **usual)
    workdir, output = save_stage(stage, tmp_path / "run"), tmp_path / "out"
    done = export(workdir, output, "--parts=controlnet.safetensors,controlnet")
    assert done.status == 0, done.stderr
    assert all(x.startswith("control_model.") for x in load_file(output / CONTROL_FILE))
    expected = stage.params["control"]
    for place in (output / CONTROL_FILE, output / "controlnet"):
        opened = open_control(str(place))
        check_control(str(place), opened.config, stage.model.unet.config)
        loaded = opened.load(jax.eval_shape(lambda: expected))
        jax.tree.map(np.testing.assert_array_equal, loaded, expected)
    assert (
        f"`{CONTROL_FILE}`: the sketch branch in the original" in (output / "README.md").read_text()
    )
    # Such a file holds no sizes: networks of other ones have none.
    other = random_stage(1, **(usual | {"model.unet.attention_head_dim": 4}))
    assert "control_file" not in writers(other.model, other.params, "float32", "diffusers", False)


def test_the_unet_is_written_without_and_the_adapters_beside_it(stage, exported):
    stored = load_file(exported / "unet" / "diffusion_pytorch_model.safetensors")
    plain = torch_tensors(stage.params["unet"], unet_names, "float32")
    assert set(stored) == set(plain)
    for name, tensor in plain.items():
        np.testing.assert_array_equal(stored[name], tensor, err_msg=name)
    lora = load_lora(exported / "lora", stage.params)
    assert set(lora) == {"unet"}
    one, two = (merged(stage.params["unet"], x["unet"]) for x in (lora, stage.params["lora"]))
    for path, leaf in flatten_dict(one, sep="/").items():
        np.testing.assert_allclose(leaf, flatten_dict(two, sep="/")[path], rtol=1e-5, atol=1e-5)


def test_ragaf_is_written_as_it_is(stage, exported):
    stored = load_file(exported / "ragaf" / "model.safetensors")
    tree = unflatten_dict({tuple(name.split(".")): x for name, x in stored.items()})
    expected = flatten_dict(stage.params["ragaf"], sep="/")
    found = flatten_dict(tree, sep="/")
    assert set(found) == set(expected)
    assert all(np.array_equal(found[path], leaf) for path, leaf in expected.items())
    config = json.loads((exported / "ragaf" / "config.json").read_text())
    assert config["width"] == 16 and config["sites"] == dict(stage.model.ragaf.sites)


def test_configurations_and_schedule(stage, exported):
    config = json.loads((exported / "unet" / "config.json").read_text())
    assert configs.unet_config(config, "x") == stage.model.unet.config
    scheduler = json.loads((exported / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["prediction_type"] == "sample" and scheduler["rescale_betas_zero_snr"]


def test_the_card_tells_of_the_run(exported):
    card = (exported / "controlnet" / "README.md").read_text()
    assert card.startswith("---\n") and "library_name: diffusers" in card
    for row in ("| stage | 2 |", "| updates | 7 |", "| loss | 0.25 |", "| started from | random"):
        assert row in card
    assert "| stage 2: edge_f1 | 0.75 |" in card
    assert "grad_norm" not in card and "/home/me" not in card
    table = [line for line in card.splitlines() if line.startswith("| ")]
    assert all(line.replace("\\|", "").count("|") == 3 for line in table)
    assert json.loads(card.split("```json\n")[1].split("\n```")[0])["stage"] == 2


def test_merging_does_not_round_the_update_away(stage, tmp_path):
    """A frozen UNet is kept in bfloat16, whose steps are greater than many updates."""
    params = dict(stage.params)
    unet = flatten_dict(params["unet"], sep="/")
    unet = {path: jnp.asarray(leaf, jnp.bfloat16) for path, leaf in unet.items()}
    params["unet"] = unflatten_dict(unet, sep="/")
    small = {
        path: leaf if path.endswith("alpha") else 0.03 * leaf
        for path, leaf in flatten_dict(params["lora"], sep="/").items()
    }
    params["lora"] = unflatten_dict(small, sep="/")
    made = writers(stage.model, params, "float32", "diffusers", merge_lora=True)
    assert "lora" not in made
    made["unet"](tmp_path)
    stored = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    (name,) = [n for n in stored if n.endswith("down_blocks.0.resnets.0.conv1.weight")]
    adapter = params["lora"]["unet"]["down_blocks_0"]["resnets_0"]["conv1"]
    update = adapter["alpha"] / 2 * adapter["down"] @ adapter["up"][0, 0]
    kernel = np.float32(unet["down_blocks_0/resnets_0/conv1/kernel"])
    np.testing.assert_allclose(
        stored[name].transpose(2, 3, 1, 0) - kernel, update, rtol=1e-3, atol=1e-6
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--parts=vae"], "--parts has vae and .* has controlnet, unet"),
        (["--format=kohya", "--merge_lora"], "choose one of them"),
        (["--format=kohya", "--parts=unet"], "leave one of them out"),
        (["--format=orbax", "--parts=unet"], "leave out --parts"),
        (["--dtype=float64"], "float64"),
        (["--checkpoint=last"], "--checkpoint is 'last'; give newest, best or the step"),
        (["--checkpoint=3"], "holds no checkpoint of step 3: its steps are 7"),
        (["--checkpoint=best"], "no best checkpoint, because 'response/sketch'"),
    ],
)
def test_what_cannot_be_exported(workdir, tmp_path, flags, said):
    done = export(workdir, tmp_path / "out", *flags)
    assert done.status == 1 and re.search(said, done.stderr), done.stderr
    assert not list(tmp_path.iterdir())


def test_a_card_has_the_numbers_of_its_own_checkpoint(workdir):
    assert measured(workdir, 2, 7) == {"loss": 0.25, "stage 2: edge_f1": 0.75}
    assert measured(workdir, 2, 6) == {"loss": 0.5}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parameters_alone_are_a_workdir(stage, workdir, tmp_path, monkeypatch, dtype):
    done = export(workdir, tmp_path / "small", "--format=orbax", f"--dtype={dtype}")
    assert done.status == 0, done.stderr
    assert {path.name for path in (tmp_path / "small").iterdir()} == {
        *("README.md", "config.json", "checkpoints")
    }
    read = Stage.restore(tmp_path / "small", 2)
    # JSON has no tuples. Paths of data and Stage 1 are not exported.
    expected = stage.config.copy_and_resolve_references()
    expected.data.dir, expected.stage1 = "data", ""
    assert json.dumps(read.config.to_dict()) == json.dumps(expected.to_dict())
    assert read.step == stage.step
    assert read.tokenizer.to_json() == stage.tokenizer.to_json()
    assert json.loads((tmp_path / "small" / "config.json").read_text())["stage"] == 2
    for file in (tmp_path / "small").rglob("*"):
        assert file.is_dir() or str(tmp_path).encode() not in file.read_bytes(), file
    expected = flatten_dict(stage.params, sep="/")
    found = flatten_dict(read.params, sep="/")
    assert set(found) == set(expected)
    for path, leaf in expected.items():
        assert found[path].dtype == np.float32, path
        rounded = np.float32(jnp.asarray(leaf, dtype))
        np.testing.assert_array_equal(found[path], rounded, err_msg=path)
    # The code in the card runs as it is printed.
    code = (tmp_path / "small" / "README.md").read_text().split("```python")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    told = {}
    exec(code, told)
    assert told["stage"].step == 7
    # It has no optimiser: not to be trained on, but to begin from.
    abstract = jax.eval_shape(lambda: {"opt_state": jnp.zeros(3), "ema": stage.params})
    with pytest.raises(UserError, match="without an optimiser state.*give another workdir"):
        Checkpointer(tmp_path / "small").restore_latest(abstract)


def test_parameters_in_16_bits_take_half_the_room(workdir, tmp_path):
    sizes = []
    for dtype in ("float32", "bfloat16"):
        export(workdir, tmp_path / dtype, "--format=orbax", f"--dtype={dtype}")
        files = (tmp_path / dtype / "checkpoints").rglob("d/*")
        sizes.append(sum(path.stat().st_size for path in files))
    assert 0.4 < sizes[1] / sizes[0] < 0.6


def test_parts_alone(workdir, tmp_path):
    done = export(workdir, tmp_path / "out", "--parts=lora,unet", "--dtype=float16")
    assert done.status == 0, done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"lora", "unet", "README.md"}
    stored = load_file(tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {np.dtype(np.float16)}
    # Another folder's files are not replaced.
    (tmp_path / "out" / "notes.txt").touch()
    done = export(workdir, tmp_path / "out")
    assert done.status == 1 and "holds other files" in done.stderr
