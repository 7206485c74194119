"""LoRAs of a call: their syntax, strengths without compilation, records and repetition."""

import dataclasses
import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapters import write_lora
from commands import run_here
from fakes import SMALLEST, random_stage, save_stage
from flax.traverse_util import flatten_dict, unflatten_dict
from pages import random_page
from PIL import Image
from safetensors.numpy import load_file, save_file
from written import abstract_xl

from ragaf_jax.errors import UserError
from ragaf_jax.nets.lora import merged as merged_adapters
from ragaf_jax.sampling.command.batch_requests import read_requests
from ragaf_jax.sampling.command.many import run_batch
from ragaf_jax.sampling.lora.merging import AdaptedParams
from ragaf_jax.sampling.lora.settings import Lora, as_loras, parse_loras
from ragaf_jax.sampling.pipeline import Pipeline
from ragaf_jax.sampling.recorded import METADATA, comparable

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline(random_stage(1, **SMALLEST))


@pytest.fixture
def files(rng, tmp_path, pipeline):
    """A file for all networks, and one of another rank for the UNet alone."""
    params = pipeline.stages[1].params
    style, other = tmp_path / "style.safetensors", tmp_path / "other.safetensors"
    write_lora(style, rng, params, **{"modelspec.trigger_phrase": "a <b>sks</b>"})
    write_lora(other, rng, params, 3, ("unet/.*/to_q",))
    return str(style), str(other)


def sample(*flags):
    return run_here("ragaf_jax.sample", *flags)


PARSED = {
    "a.safetensors": ("a.safetensors", 1, 1),
    "a.safetensors=0.8": ("a.safetensors", 0.8, 0.8),
    "a.safetensors=0.8,-.5": ("a.safetensors", 0.8, -0.5),
    "C:/a=b,c.safetensors=1,0": ("C:/a=b,c.safetensors", 1, 0),
}


@pytest.mark.parametrize("text", PARSED)
def test_strengths_follow_the_last_equals_sign(text):
    (lora,) = parse_loras([text])
    assert (lora.path, lora.unet, lora.text) == PARSED[text]
    assert parse_loras([lora.flag]) == (lora,)


def test_a_path_that_exists_has_no_strengths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=2").touch()
    assert parse_loras(["a=2"]) == (Lora("a=2"),)
    assert parse_loras(["a=2=3"]) == (Lora("a=2", 3.0, 3.0),)


def test_python_gives_paths_or_strengths_by_path():
    expected = (Lora("a", 0.5, 0.5), Lora("b", 1.0, 0.0))
    assert as_loras({"a": 0.5, "b": (1, 0)}) == expected
    assert as_loras(expected) == expected
    assert as_loras(["a", Lora("b", 0.0)]) == (Lora("a"), Lora("b", 0.0))
    assert as_loras(None) == ()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("a.safetensors=x", r"^The LoRA 'a.safetensors=x' is not <path>, <path>=<strength> or"),
        ("a=1,2,3", r"is not <path>, <path>=<strength> or"),
        ("=1", r"is not <path>"),
        ("a=nan", r"strength of the LoRA a in the UNet is nan; choose -100 to 100, usually 0 to 1"),
        ("a=1,101", r"in the text encoder is 101.0; choose"),
        ("gs://a/b", r"^The LoRA is gs://a/b: gs:// is not supported"),
        ({"a": (1, 2, 3)}, r"strengths of the LoRA a are \(1, 2, 3\); give one number, or one for"),
        ({"a": "x"}, r"in the UNet is x; choose"),
        ({"a": None}, r"in the UNet is None; choose"),
        (["a", "./a"], r"The LoRA ./a is given twice; give it once"),
        ("all", None),
        (3, r"loras is 3; give a list of paths, or strengths by path such as"),
    ],
)
def test_what_is_no_lora_with_strengths_is_named(given, said):
    if said is None:
        with pytest.raises(UserError, match="loras is 'all'; give a list of paths"):
            as_loras(given)
        return
    with pytest.raises(UserError, match=said):
        parse_loras([given]) if isinstance(given, str) else as_loras(given)


def assert_merged(found, params, adapters, strength):
    """The parameters of a network are those with its adapters, multiplied by the strength."""
    flat = flatten_dict(jax.tree.map(np.asarray, adapters), sep="/")
    flat = {k: v * strength if k.endswith("/alpha") else v for k, v in flat.items()}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        found,
        merged_adapters(params, unflatten_dict(flat, sep="/")),
    )


def test_a_lora_is_merged_into_each_network_with_its_own_strength(rng, tmp_path, pipeline):
    stage = random_stage(2, **SMALLEST)
    lora = write_lora(tmp_path / "a.safetensors", rng, stage.params)
    options = pipeline.options(loras={tmp_path / "a.safetensors": (0.5, -2.0)})
    both = AdaptedParams({i: jax.tree.map(jnp.asarray, stage.params) for i in (1, 2)})
    params = both.of_stage(2, options.loras)
    for network, strength in (("unet", 0.5), ("control", 0.5), ("text_encoder", -2.0)):
        assert_merged(params[network], stage.params[network], lora[network], strength)
    assert params["ragaf"] is not None
    jax.tree.map(np.testing.assert_array_equal, params["ragaf"], stage.params["ragaf"])


def test_a_lora_of_sdxl_is_merged_into_both_text_encoders(rng, tmp_path):
    params = jax.tree.map(lambda x: jnp.float32(rng.standard_normal(x.shape)), abstract_xl())
    path = tmp_path / "a.safetensors"
    patterns = "unet/mid_block/.*/to_q", "text_encoder/.*/q_proj"
    lora = write_lora(path, rng, params, patterns=patterns)
    assert set(lora["text_encoder"]) == {"clip_l", "clip_g"}
    stages, loras = AdaptedParams({1: params}), (Lora(str(path), 0.5, -2.0),)
    found = stages.of_stage(1, loras)
    for network, strength in (("unet", 0.5), ("text_encoder", -2.0)):
        assert_merged(found[network], params[network], lora[network], strength)
    assert stages.notices(loras) == [
        "LoRA a.safetensors: parameters changed: 4 in the UNet, 2 in the first text encoder, 3 in "
        "the second text encoder."
    ]


def test_strengths_change_images_and_compile_nothing(rng, pipeline, files, caplog):
    style, other = files
    page = pipeline.page(random_page(rng))
    plain = pipeline(page, "red house")
    first = pipeline(page, "red house", loras=[style])
    assert (first.images != plain.images).any()
    both = pipeline(page, "red house", loras=[style, other])  # other ranks, compiled once
    assert (both.images != first.images).any()
    with jax.log_compiles(), caplog.at_level(logging.WARNING, "jax"):
        seen = [first.images, both.images]
        for loras in (
            {style: 0.4},
            {style: (0.4, 1.0)},
            {style: -0.4, other: 0.9},
            {other: 1.0},
            {other: 1.0, style: 1e-3},
        ):
            images = pipeline(page, "red house", loras=loras).images
            assert all((images != before).any() for before in seen)
            seen.append(images)
        # Zero and nothing are the model itself, to the bit.
        for loras in ({style: 0, other: 0}, (), None):
            images = pipeline(page, "red house", loras=loras).images
            np.testing.assert_array_equal(images, plain.images)
        assert [line for line in caplog.messages if "ompil" in line] == []


def test_a_lora_of_other_ranks_compiles_its_merging_alone(rng, tmp_path, pipeline, caplog):
    page = pipeline.page(random_page(rng))
    pipeline(page, "house")
    path = tmp_path / "wide.safetensors"
    write_lora(path, rng, pipeline.stages[1].params, 5)
    with jax.log_compiles(), caplog.at_level(logging.WARNING, "jax"):
        pipeline(page, "house", loras=[path])
    compiled = [line for line in caplog.messages if line.startswith("Finished XLA compilation")]
    assert compiled and all("jit(added)" in line for line in compiled)


def test_a_changed_file_is_read_again(rng, tmp_path, pipeline):
    path, params = tmp_path / "a.safetensors", pipeline.stages[1].params
    write_lora(path, rng, params)
    one = pipeline.options(loras=[path]).loras[0]
    assert one.path == str(path) and len(one.sha256) == 64
    write_lora(path, rng, params, 4)
    two = pipeline.options(loras=[path]).loras[0]
    assert two.sha256 != one.sha256


def test_bfloat16_is_rounded_once(rng, tmp_path):
    stage = random_stage(1, **SMALLEST)
    half = jax.tree.map(lambda x: x.astype("bfloat16"), stage.params)
    pipeline = Pipeline(dataclasses.replace(stage, params=half))
    path = tmp_path / "a.safetensors"
    write_lora(path, rng, stage.params, patterns=("unet/.*/to_q",))
    loras = pipeline.options(loras=[path]).loras
    loras = (loras[0], dataclasses.replace(loras[0], unet=-1.0))  # W + ΔW − ΔW
    params = pipeline._adapted.of_stage(1, loras)
    assert all(leaf.dtype == "bfloat16" for leaf in jax.tree.leaves(params))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(np.float32(a), np.float32(b), rtol=1e-2, atol=1e-5),
        params["unet"],
        half["unet"],
    )


def test_files_that_do_not_fit_are_named(rng, tmp_path, pipeline, files):
    with pytest.raises(UserError, match=r"LoRA .*none.safetensors does not exist; give a \.safete"):
        pipeline.options(loras=["none.safetensors"])
    (tmp_path / "damaged.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(UserError, match="is no complete safetensors file"):
        pipeline.options(loras=[tmp_path / "damaged.safetensors"])
    tensors = load_file(files[0])
    name = next(name for name in tensors if "unet" in name and name.endswith("lora_up.weight"))
    save_file({name: tensors[name]}, tmp_path / "half.safetensors")
    with pytest.raises(UserError, match="without its other half"):
        pipeline.options(loras=[tmp_path / "half.safetensors"])


def test_the_command_records_loras_and_repeats_them(
    rng, tmp_path, tmp_path_factory, pipeline, files, monkeypatch
):
    style, other = files
    monkeypatch.setattr(Pipeline, "restore", lambda *_, **__: pipeline)
    sketch = tmp_path / "house.png"
    Image.fromarray(random_page(rng)).save(sketch)
    workdirs = tmp_path_factory.mktemp("runs")
    stages = [f"--stage{i}={save_stage(x, workdirs / f's{i}')}" for i, x in pipeline.stages.items()]
    output = tmp_path / "out"
    loras = [f"--lora={style}=0.8,0.5", "--lora", other]
    given = [*stages, f"--sketch={sketch}", "--prompt=a house", "--seed=3"]
    done = sample(*given, *loras, f"--output={output}")
    assert done.status == 0, done.stderr
    line = next(line for line in done.stderr.splitlines() if line.startswith("LoRA style.safetens"))
    assert line.endswith(" in the sketch branch; trigger words: a <b>sks</b>.")
    assert line.startswith("LoRA style.safetensors: parameters changed: 7 in the UNet, 1 in the ")
    metadata = json.loads((output / METADATA).read_text())
    assert [(x["path"], x["unet"], x["text"]) for x in metadata["loras"]] == [
        (style, 0.8, 0.5),
        (other, 1.0, 1.0),
    ]
    page = pipeline.page(sketch)
    expected = pipeline(page, "a house", seed=3, loras={style: (0.8, 0.5), other: 1})
    image = np.array(Image.open(output / "stage1_output.png"))
    np.testing.assert_array_equal(image, expected.images[0])
    again = tmp_path / "again"
    done = sample(f"--from={output}", f"--output={again}")
    assert done.status == 0, done.stderr
    assert (again / "stage1_output.png").read_bytes() == (output / "stage1_output.png").read_bytes()
    assert json.loads((again / METADATA).read_text())["loras"] == metadata["loras"]
    done = sample(f"--from={output}", f"--output={again}", f"--lora={style}=0")
    assert done.status == 0, done.stderr
    unchanged = pipeline(page, "a house", seed=3).images[0]
    np.testing.assert_array_equal(np.array(Image.open(again / "stage1_output.png")), unchanged)
    # Outputs with the same files elsewhere are the same, and those with others are not.
    moved = {"loras": [{**metadata["loras"][0], "path": "elsewhere"}]}
    assert comparable(moved) == comparable({"loras": metadata["loras"][:1]})
    assert comparable(moved) != comparable({"loras": metadata["loras"][1:]})
    write_lora(style, rng, pipeline.stages[1].params)
    done = sample(f"--from={output}", f"--output={again}")
    assert done.status == 1
    assert f"error: The lora {style} has changed since" in done.stderr
    (tmp_path / "other.safetensors").unlink()
    write_lora(tmp_path / "unused.safetensors", rng, pipeline.stages[1].params)
    entries = {**metadata, "loras": [{"path": style}]}
    (output / METADATA).write_text(json.dumps(entries))
    done = sample(f"--from={output}", f"--output={again}")
    assert done.status == 1 and "give --lora, which overrides them" in done.stderr


def test_rows_of_a_batch_have_their_own_loras(rng, tmp_path, pipeline, files):
    style, other = files
    Image.fromarray(random_page(rng)).save(tmp_path / "a.png")
    table = tmp_path / "prompts.jsonl"
    own = [None, [f"{style}=0.5"], [], [f"{style}=0.5", other]]
    rows = [{"sketch": "a.png", "name": str(i), "prompt": "house"} for i in range(len(own))]
    rows = [row | ({} if x is None else {"loras": x}) for row, x in zip(rows, own, strict=True)]
    table.write_text("\n".join(map(json.dumps, rows)))
    requests = read_requests(tmp_path, table)
    csv = tmp_path / "prompts.csv"
    csv.write_text(f"sketch,loras\na.png,{style}=0.5; {other}\na.png,\n")
    assert [x.loras for x in read_requests(tmp_path, csv)] == [requests[3].loras, None]
    options = pipeline.options(steps=2, loras=[other])
    done = run_batch(pipeline, requests, tmp_path / "out", options, 4, {})
    assert done.failed == {}
    # The notice of each LoRA once; the command prints those of its own.
    assert done.notices == {"1": pipeline.lora_notices(pipeline.options(loras=[style]))}
    expected = [[other], {style: 0.5}, None, {style: 0.5, other: 1}]
    page = pipeline.page(tmp_path / "a.png")
    for i, loras in enumerate(expected):
        alone = pipeline(page, "house", seed=4, steps=2, loras=loras).images[0]
        image = np.array(Image.open(tmp_path / "out" / str(i) / "stage1_output.png"))
        np.testing.assert_array_equal(image, alone)
    again = run_batch(pipeline, requests, tmp_path / "out", options, 4, {})
    assert again.existing == ["0", "1", "2", "3"]
    again = run_batch(pipeline, requests, tmp_path / "out", pipeline.options(steps=2), 4, {})
    assert again.sampled == ["0"]
    for text in ("3", "[3]", '["a=b"]'):
        table.write_text(f'{{"sketch": "a.png", "loras": {text}}}')
        with pytest.raises(UserError, match="prompts.jsonl:1: loras is|LoRA 'a=b' is not <path>"):
            read_requests(tmp_path, table)


def test_the_command_refuses_loras_before_it_reads_checkpoints(rng, tmp_path):
    sketch = tmp_path / "house.png"
    Image.fromarray(random_page(rng)).save(sketch)
    flags = ["--stage1=none", f"--sketch={sketch}", "--prompt=", f"--output={tmp_path / 'out'}"]
    done = sample(*flags, "--lora=a.safetensors=strong")
    assert done.status == 1
    assert "error: The LoRA 'a.safetensors=strong' is not <path>" in done.stderr
