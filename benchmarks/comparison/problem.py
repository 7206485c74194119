"""The benchmark's networks, and the jobs of worker processes."""

import dataclasses
import json
from typing import Any, Literal

import ml_collections

from configs import stage1, stage2
from ragaf_jax.planning.shapes import stable_diffusion_15
from ragaf_jax.training.adopt import with_fields

# Fields of diffusers' config.json by network; others have diffusers' defaults. sd15 is Stable
# Diffusion 1.5.
UNETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "block_out_channels": (32, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "attention_head_dim": 2,
        "cross_attention_dim": 32,
    },
    "small": {
        "block_out_channels": (64, 128, 256),
        "down_block_types": ("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 2,
        "layers_per_block": 2,
        "attention_head_dim": 8,
        "cross_attention_dim": 128,
    },
    "sd15": {
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "layers_per_block": 2,
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
    },
}
TEXT_ENCODERS: dict[str, dict[str, Any]] = {
    "tiny": {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64},
    "small": {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512},
    "sd15": {"num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
}
# Channels of the autoencoder, whose latents have an eighth of the image's side.
VAES: dict[str, tuple[int, ...]] = {
    "tiny": (32, 32, 32, 32),
    "small": (32, 32, 64, 64),
    "sd15": (128, 256, 512, 512),
}
VOCABULARY, TOKENS = 49408, 77

# Of both peers: AdamW on the sketch branch with gradient clipping; PyTorch without EMA.
LEARNING_RATE, WEIGHT_DECAY, CLIP_NORM = 1e-5, 0.01, 1.0
STEPS, GUIDANCE = 20, 7.5  # of DPM-Solver++(2M)

Dtype = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class Job:
    """The repeated task of a worker.

    Attributes:
      peer: the code: "ours" or "torch".
      task: "step", a training step of the sketch branch from cached latents and text states; or
        "sample", from a prompt's tokens and a sketch to images.
      network: a name in `UNETS`.
      image_size: px; latents have an eighth of it.
      batch: examples per step, or images.
      dtype: of the computation.
      folder: a checkpoint in diffusers' format with its ControlNet in `controlnet/`; empty: each
        peer's own networks with random parameters.
      stage: of "ours"; 2 also trains RAGAF.
      regions, edges: sizes of Stage 2's padded graphs.
      remat: of "ours", `config.model.remat`.
      devices: of "ours"; they share the batch.
    """

    peer: Literal["ours", "torch"]
    task: Literal["step", "sample"]
    network: str
    image_size: int
    batch: int
    dtype: Dtype = "float32"
    folder: str = ""
    stage: int = 1
    regions: int = 33
    edges: int = 192
    remat: str = "none"
    devices: int = 1

    def to_json(self) -> str:
        """For a worker's command line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """The job from `to_json`'s result."""
        return cls(**json.loads(text))


def config_of(job: Job) -> ml_collections.ConfigDict:
    """This project's configuration of a job: Stable Diffusion's with the job's network sizes."""
    config = (stage1 if job.stage == 1 else stage2).get_config("openmoji_sd")
    unet, text = UNETS[job.network], TEXT_ENCODERS[job.network]
    return with_fields(
        config,
        {
            **stable_diffusion_15(),
            **{f"model.unet.{name}": value for name, value in unet.items()},
            **{f"model.text_encoder.{name}": value for name, value in text.items()},
            "model.text_encoder.hidden_size": unet["cross_attention_dim"],
            "model.vae.block_out_channels": VAES[job.network],
            "model.dtype": job.dtype,
            "model.remat": job.remat,
            "init.checkpoint": job.folder,
            "init.control": f"{job.folder}/controlnet" if job.folder else "unet",
            "data.image_size": job.image_size,
            "data.max_regions": job.regions,
            "data.max_edges": job.edges,
            "data.cache": "latents,text" if job.task == "step" else "",
            "train.batch_size": job.batch,
            "train.learning_rate": LEARNING_RATE,
            "train.weight_decay": WEIGHT_DECAY,
            "train.clip_norm": CLIP_NORM,
            "train.warmup_steps": 1,
            "sample.steps": STEPS,
            "sample.guidance": GUIDANCE,
        },
    )
