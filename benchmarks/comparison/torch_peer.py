"""The benchmark's networks in PyTorch's diffusers, optimised, and the checkpoints of both peers.

channels_last, SDPA, fused AdamW; on a GPU also bfloat16 and `torch.compile`.
"""

# mypy: ignore-errors
# (Their types are missing without the packages, and wrong with them.)

import json
from collections.abc import Callable
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers

from benchmarks.comparison.problem import (
    CLIP_NORM,
    GUIDANCE,
    LEARNING_RATE,
    STEPS,
    TEXT_ENCODERS,
    TOKENS,
    UNETS,
    VAES,
    VOCABULARY,
    WEIGHT_DECAY,
    Job,
)
from benchmarks.comparison.worker import Ready, inputs_of

_SCHEDULE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
}
_CLASSES = {
    "unet": diffusers.UNet2DConditionModel,
    "controlnet": diffusers.ControlNetModel,
    "vae": diffusers.AutoencoderKL,
    "text_encoder": transformers.CLIPTextModel,
}


def random_networks(network: str) -> dict[str, torch.nn.Module]:
    """Random networks by folder names; the zero convolutions are not zero."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(sample_size=64, **UNETS[network])
    control = diffusers.ControlNetModel.from_unet(unet)
    with torch.no_grad():
        for name, parameter in control.named_parameters():
            if name.startswith("controlnet_") and not parameter.any():
                parameter.normal_(std=0.02)
    text = transformers.CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=UNETS[network]["cross_attention_dim"],
        max_position_embeddings=TOKENS,
        **TEXT_ENCODERS[network],
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=VAES[network],
        down_block_types=("DownEncoderBlock2D",) * len(VAES[network]),
        up_block_types=("UpDecoderBlock2D",) * len(VAES[network]),
        layers_per_block=2,
    )
    encoder = transformers.CLIPTextModel(text)
    return {"unet": unet, "controlnet": control, "vae": vae, "text_encoder": encoder}


def save_checkpoint(network: str, folder: Path) -> None:
    """Writes random weights of `network` in diffusers' format."""
    for name, module in random_networks(network).items():
        module.save_pretrained(folder / name)
    diffusers.PNDMScheduler(skip_prk_steps=True, **_SCHEDULE).save_pretrained(folder / "scheduler")
    index = {"_class_name": "StableDiffusionPipeline"}
    (folder / "model_index.json").write_text(json.dumps(index))


def _loader(job: Job, device: torch.device) -> Callable[[str], torch.nn.Module]:
    """A function from a network's name to the network, from the job's checkpoint or random."""
    if job.folder:
        return lambda name: _CLASSES[name].from_pretrained(Path(job.folder) / name)
    with device:
        return random_networks(job.network).pop


def set_up(job: Job) -> Ready:
    """The job in PyTorch."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, job.dtype)
    load = _loader(job, device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True

    def placed(network: torch.nn.Module, dtype: torch.dtype = dtype) -> torch.nn.Module:
        return network.to(device, dtype).to(memory_format=torch.channels_last)

    unet = placed(load("unet"))
    # Trainable parameters are in float32, as in the other peer.
    control = placed(load("controlnet"), torch.float32 if job.task == "step" else dtype)
    unet.requires_grad_(False).eval()
    if device.type == "cuda":
        unet, control = torch.compile(unet), torch.compile(control)
    inputs = {
        name: torch.from_numpy(value).to(device)
        for name, value in inputs_of(job, UNETS[job.network]["cross_attention_dim"]).items()
    }

    def nchw(x: torch.Tensor, dtype: torch.dtype = dtype) -> torch.Tensor:
        return x.permute(0, 3, 1, 2).to(dtype=dtype, memory_format=torch.channels_last)

    latents, sketch = nchw(inputs["latents"]), nchw(inputs["sketch"])
    text = inputs["text"].to(dtype)

    def predict(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            down, mid = control(noisy, timesteps, text, sketch, return_dict=False)
            return unet(
                noisy,
                timesteps,
                text,
                down_block_additional_residuals=down,
                mid_block_additional_residual=mid,
            ).sample

    def answer() -> np.ndarray:
        with torch.no_grad():
            y = predict(latents, inputs["timesteps"].long())
        return y.float().permute(0, 2, 3, 1).cpu().numpy()

    if job.task == "step":
        run = _training_step(job, predict, control, latents, device)
    else:
        run = _sampling(job, unet, control, load, placed, sketch, device)

    def device_peak() -> int | None:
        return torch.cuda.max_memory_allocated() if device.type == "cuda" else None

    parameters = [sum(p.numel() for p in net.parameters()) for net in (unet, control)]
    about = {
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "parameters": parameters,
    }
    return Ready(run, answer, about, device_peak)


def _training_step(job, predict, control, latents, device):
    """As in `examples/controlnet/train_controlnet.py`, from cached latents and text states."""
    control.train()
    optimizer = torch.optim.AdamW(
        control.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True
    )
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, 0).float().to(device)

    def run() -> None:
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, 1000, (job.batch,), device=device)
        alpha_bar = alphas[timesteps][:, None, None, None]
        noisy = (alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise).to(latents.dtype)
        loss = torch.nn.functional.mse_loss(predict(noisy, timesteps).float(), noise.float())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(control.parameters(), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()

    return run


def _sampling(job, unet, control, load, placed, sketch, device):
    """diffusers' pipeline on tokens, without a tokenizer."""
    encoder = load("text_encoder").to(device, unet.dtype).eval()
    pipeline = diffusers.StableDiffusionControlNetPipeline(
        vae=placed(load("vae")),
        text_encoder=encoder,
        tokenizer=None,
        unet=unet,
        controlnet=control.eval(),
        scheduler=diffusers.DPMSolverMultistepScheduler(**_SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    tokens = torch.randint(0, VOCABULARY, (job.batch + 1, TOKENS), device=device)

    def run() -> None:
        with torch.no_grad():
            states = encoder(tokens)[0]
        pipeline(
            prompt_embeds=states[1:],
            negative_prompt_embeds=states[:1].expand_as(states[1:]),
            image=sketch,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            output_type="np",
        )

    return run
