"""Writes golden.json and golden.npz: what PyTorch's diffusers and transformers answer.

    python tests/golden/make.py        # needs the parity extra; when a format is added, not else

Weights and inputs are those of `values.py`, so that only names, shapes, configurations and answers
are stored. All answers are computed in float64.
"""

import json
import sys
from pathlib import Path

import diffusers
import numpy as np
import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "parity"), str(HERE)]

import torch_models  # noqa: E402
import values  # noqa: E402

SCHEDULERS = {
    "ddim": diffusers.DDIMScheduler,
    "dpm_solver_pp_2m": diffusers.DPMSolverMultistepScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "heun": diffusers.HeunDiscreteScheduler,
}
DIVIDED = ("euler", "heun")  # theirs keep x / alpha


def named(network):
    """The network with the golden weights, in float64."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(torch.from_numpy(values.weight(name, tuple(parameter.shape))))
    return network.double().eval()


def nchw(x):
    return torch.from_numpy(x).double().permute(0, 3, 1, 2)


def nhwc(x):
    return x.permute(0, 2, 3, 1).numpy()


def networks(kind):
    """Theirs; as small as they can be while nothing is left out."""
    rng = np.random.default_rng(0)
    unet = torch_models.unet(kind, rng, layers_per_block=1)
    return {
        "unet": unet,
        "controlnet": torch_models.control(unet, rng, channels=(4, 6, 6, 8)),
        "vae": torch_models.vae(rng, block_out_channels=(4, 8, 8, 8)),
        "text_encoder": torch_models.text_encoder(kind, rng),
    }


@torch.no_grad()
def answers(kind, nets):
    """Every network's output, by name."""
    given = values.inputs(kind)
    state = {
        "timestep": torch.from_numpy(given["timesteps"]).double(),
        "encoder_hidden_states": torch.from_numpy(given["text"]).double(),
    }
    x = nchw(given["latents"])
    down, mid = nets["controlnet"](
        x, controlnet_cond=nchw(given["sketch"]), return_dict=False, **state
    )
    drawn = nets["unet"](
        x, down_block_additional_residuals=down, mid_block_additional_residual=mid, **state
    )
    posterior = nets["vae"].encode(nchw(given["image"])).latent_dist
    text = nets["text_encoder"](torch.from_numpy(given["tokens"]).long(), output_hidden_states=True)
    encoder = getattr(nets["text_encoder"], "text_model", nets["text_encoder"])
    return {
        "unet": nhwc(nets["unet"](x, **state).sample),
        "unet_with_control": nhwc(drawn.sample),
        "control_mid": nhwc(mid),
        "vae_mean": nhwc(posterior.mean),
        "vae_log_variance": nhwc(posterior.logvar),
        "vae_decoded": nhwc(nets["vae"].decode(x[:1]).sample),
        "text": text.last_hidden_state.numpy(),
        "text_clip_skip_1": encoder.final_layer_norm(text.hidden_states[-2]).numpy(),
    }


def trajectory(sampler, prediction, spacing):
    """x after every step, variance preserving, of a network that is 0.5 sin(x) + t/1000."""
    scheduler = SCHEDULERS[sampler].from_config(
        torch_models.scheduler("sd1").config,
        prediction_type=prediction,
        timestep_spacing=spacing,
    )
    scheduler.set_timesteps(values.STEPS)
    x, steps = nchw(values.start()), []
    for i, t in enumerate(scheduler.timesteps):
        if sampler in DIVIDED:
            if i == 0:
                x = x * (scheduler.sigmas[0] ** 2 + 1) ** 0.5
            given = scheduler.scale_model_input(x, t)
        else:
            given = x
        x = scheduler.step(0.5 * torch.sin(given) + t / 1000, t, x).prev_sample
        end = x / (scheduler.sigmas[i + 1] ** 2 + 1) ** 0.5 if sampler in DIVIDED else x
        steps.append(nhwc(end.double()))
    if sampler == "heun":  # two evaluations a step, but one in the last
        steps = [*steps[1::2], steps[-1]]
    return np.stack(steps)


def main():
    """Writes both files."""
    meanings, arrays = {}, {}
    for kind in torch_models.KINDS:
        nets = networks(kind)
        meanings[kind] = {
            name: {
                "config": json.loads(
                    net.to_json_string() if name != "text_encoder" else net.config.to_json_string()
                ),
                "shapes": {key: list(tensor.shape) for key, tensor in net.named_parameters()},
            }
            for name, net in nets.items()
        }
        scheduler = torch_models.scheduler(kind)
        meanings[kind]["scheduler"] = {"config": json.loads(scheduler.to_json_string())}
        nets = {name: named(net) for name, net in nets.items()}
        for name, answer in answers(kind, nets).items():
            arrays[f"{kind}/{name}"] = answer
    for sampler in SCHEDULERS:
        for prediction in ("epsilon", "v_prediction"):
            for spacing in ("leading", "trailing"):
                name = f"{sampler}/{prediction}/{spacing}"
                arrays[name] = trajectory(sampler, prediction, spacing)
    (HERE / "golden.json").write_text(json.dumps(meanings, indent=1) + "\n")
    np.savez_compressed(HERE / "golden.npz", **arrays)


if __name__ == "__main__":
    main()
