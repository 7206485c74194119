"""Images of an adopted SDXL, and of its export, are those of diffusers' pipeline."""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import torch_models  # noqa: E402
import transformers  # noqa: E402
from commands import run_here  # noqa: E402
from sdxl_pictures import (  # noqa: E402
    NEGATIVE,
    TOKENIZERS,
    distance,
    drawing_of,
    image_distance,
    inputs_of,
    pipeline_of,
    theirs_of,
    to_torch,
    write_tokenizers,
)
from test_diffusers_networks import error, nchw, normal  # noqa: E402
from test_diffusers_sdxl import state_of  # noqa: E402
from test_diffusers_single_files import same  # noqa: E402
from test_tokenizer import CORNER_CASES  # noqa: E402
from written import assert_same, configured  # noqa: E402

from ragaf_jax.nets.build import build_model  # noqa: E402
from ragaf_jax.nets.unet import AddedConditions  # noqa: E402
from ragaf_jax.sampling.controls.networks import load_controls  # noqa: E402
from ragaf_jax.sampling.stages import Stage  # noqa: E402
from ragaf_jax.training import adopt  # noqa: E402
from ragaf_jax.training.untrained import write_untrained  # noqa: E402
from ragaf_jax.weights.pretrained import open_control, open_pretrained  # noqa: E402
from ragaf_jax.weights.save import writers  # noqa: E402

STEPS, TOLERANCE = 3, 1e-5
KINDS = {"sdxl": ({}, {}), "ssd": (torch_models.SSD, torch_models.SMALLER_CONTROLS["small"])}
SIZE = {"data.image_size": 64, "data.max_edges": 64, "model.dtype": "float32"}


@pytest.fixture(scope="module", params=["sdxl", pytest.param("ssd", marks=pytest.mark.products)])
def adopted(request, tmp_path_factory, seed):
    """A checkpoint's folder, its networks and ControlNet in PyTorch, and the adopted stage."""
    folder, rng = tmp_path_factory.mktemp(request.param), np.random.default_rng(seed)
    changes, smaller = KINDS[request.param]
    theirs = torch_models.save_sdxl(folder / "xl", rng, **changes)
    write_tokenizers(folder / "xl")
    theirs["controlnet"] = torch_models.control(theirs["unet"], rng, **smaller)
    theirs["controlnet"].save_pretrained(folder / "control")
    config = configured(folder / "xl", **SIZE, **{"init.control": str(folder / "control")})
    write_untrained(config, folder / "run")
    return folder, theirs, Stage.restore(folder / "run", 1)


@pytest.fixture(scope="module")
def inputs(adopted, seed):
    """Of 9 × 13 latents, as of a cropped image."""
    _, _, stage = adopted
    sizes = 131, 250, 8, 24, 72, 104
    return inputs_of(np.random.default_rng(seed), stage.config, (72, 104), sizes)


@pytest.fixture(scope="module")
def draw(adopted, inputs):
    return drawing_of(adopted[2], inputs[1], STEPS)


@pytest.mark.slow
def test_the_same_picture(adopted, inputs, draw):
    """With and without a negative prompt, for given sizes of the image."""
    folder, theirs, _ = adopted
    pipe, batch, found = pipeline_of(theirs, folder / "xl"), inputs[0], {}
    for negative in (None, NEGATIVE):
        expected = theirs_of(pipe, inputs, negative, STEPS)
        found[negative] = draw(batch, negative or "")
        print(f"latents differ by {distance(found[negative], expected):.1e}")
        assert distance(found[negative], expected) <= TOLERANCE
    uncropped = draw(batch._replace(sizes=np.float32([[72, 104, 0, 0, 72, 104]])), NEGATIVE)
    for other in (found[None], uncropped):
        assert distance(other, expected) >= 100 * TOLERANCE


@pytest.mark.products
def test_the_same_decoded_image(adopted, inputs):
    folder, theirs, stage = adopted
    pipe = pipeline_of(theirs, folder / "xl")
    parts = pipe.vae, pipe.image_processor, to_torch(inputs[2])
    assert image_distance(stage, *parts) <= 1.5 / 255


def test_the_export_is_diffusers_pipeline(adopted, inputs, draw):
    folder, theirs, stage = adopted
    output = folder / "exported"
    done = run_here("ragaf_jax.export", f"--workdir={folder / 'run'}", f"--output={output}")
    assert done.status == 0, done.stderr
    kind = diffusers.StableDiffusionXLControlNetPipeline
    pipe = kind.from_pretrained(output, torch_dtype=torch.float32, add_watermarker=False)
    for name in ("unet", "vae", "text_encoder", "text_encoder_2", "controlnet"):
        same(getattr(pipe, name).state_dict(), theirs[name])
    assert pipe.vae.config.force_upcast and pipe.config.force_zeros_for_empty_prompt
    expected = theirs_of(pipe, inputs, None, STEPS)
    assert distance(draw(inputs[0], ""), expected) <= TOLERANCE

    found, original = (open_pretrained(str(path)) for path in (output, folder / "xl"))
    assert found.diffusion == original.diffusion
    assert found.text_encoder.config == original.text_encoder.config
    networks = {"unet": found.unet, "text_encoder": found.text_encoder, "autoencoder": found.vae}
    networks["control"] = open_control(str(output / "controlnet"))
    shapes = jax.eval_shape(lambda: stage.params)
    assert_same({k: x.load(shapes[k]) for k, x in networks.items()}, stage.params)
    frame = {"padding": "max_length", "max_length": 77, "truncation": True}
    for name in TOKENIZERS:
        ours, before = (
            transformers.CLIPTokenizer.from_pretrained(x / name) for x in (output, folder / "xl")
        )
        texts = list(CORNER_CASES.values())
        assert ours(texts, **frame).input_ids == before(texts, **frame).input_ids

    card = (output / "README.md").read_text()
    assert "diffusers.StableDiffusionXLControlNetPipeline.from_pretrained('exported')" in card
    assert "image = pipeline(prompt, image=sketch, guidance_scale=7.5).images[0]" in card
    # diffusers' converter of the original layout leaves out the added conditions.
    assert not (output / "controlnet.safetensors").exists()
    file = output / "controlnet" / "diffusion_pytorch_model.safetensors"
    single = diffusers.ControlNetModel.from_single_file(str(file), config=str(file.parent))
    same(single.state_dict(), theirs["controlnet"])


@torch.no_grad()
@pytest.mark.parametrize(
    "kind", [*torch_models.SMALLER_CONTROLS, pytest.param("whole", marks=pytest.mark.products)]
)
def test_other_controlnets(rng, adopted, tmp_path, kind):
    """As `--control` and as sketch branch, also exported; as a folder and as one file."""
    folder, nets, stage = adopted
    changes = torch_models.SMALLER_CONTROLS.get(kind, {})
    theirs = torch_models.control(nets["unet"], rng, **changes)
    theirs.save_pretrained(tmp_path / "control")
    file = tmp_path / "one.safetensors"
    file.symlink_to(tmp_path / "control" / "diffusion_pytorch_model.safetensors")
    found, single = load_controls([tmp_path / "control", file], [stage])
    assert_same(single.params, found.params)

    x, text = normal(rng, 1, 6, 10, 4), normal(rng, 1, 7, sum(torch_models.XL_WIDTHS))
    t, sizes = np.float32([500]), np.float32(rng.integers(0, 2048, (1, 6)))
    added = AddedConditions(normal(rng, 1, torch_models.POOLED), sizes)
    sketch = np.float32(rng.random((1, 48, 80, 3)))
    apply = jax.jit(lambda *given: found.network.apply({"params": found.params}, *given))
    down, mid, _ = apply(x, t, text, sketch, 1.0, None, added)
    control = torch_models.copy_of(theirs)
    residuals, last = control(
        nchw(x), controlnet_cond=nchw(sketch), return_dict=False, **state_of(t, text, added)
    )
    for ours, expected in zip((*down, mid), (*residuals, last), strict=True):
        assert error(ours, expected) <= TOLERANCE

    config = configured(folder / "xl", **SIZE, **{"init.control": str(tmp_path / "control")})
    model = build_model(adopt.adopted(config, tmp_path / "run")[0])
    assert model.control.config == found.network.config
    made = writers(model, {"control": found.params}, "float32", "diffusers", False)
    (tmp_path / "again").mkdir()
    made["control"](tmp_path / "again")
    again = diffusers.ControlNetModel.from_pretrained(tmp_path / "again")
    same(again.state_dict(), theirs)
    assert load_controls([tmp_path / "again"], [stage])[0].network == found.network
