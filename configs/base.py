"""Every field of a configuration, documented once.

`stage1.py` and `stage2.py` contain only differences. Sizes here are for the small pixel model at
64 × 64, which trains on two CPU cores.
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """The fields that every stage and dataset share."""
    config = ConfigDict()
    config.seed = 0
    config.stage = 1
    # Stage 1's workdir: Stage 2 starts from its averaged parameters and samples from its images.
    config.stage1 = ""
    # Stage 1's checkpoint: "newest", "best" (by its best_metric) or a step.
    config.stage1_checkpoint = "newest"

    # Initial weights from Stable Diffusion. They determine config.model's networks except RAGAF,
    # config.diffusion and data.text_length.
    config.init = init = ConfigDict()
    # A folder in diffusers' format, a .safetensors file in CompVis's, or a hub id. Empty: none.
    init.checkpoint = ""
    init.variant = ""  # of its files, such as "fp16" or "non_ema"
    init.ema = False  # a single file's averaged UNet, its tensors model_ema.*, where it has both
    # A VAE in place of the checkpoint's own, such as "stabilityai/sd-vae-ft-mse": a folder, file or
    # hub id. Its latents need the same size and scale. Empty: the checkpoint's own.
    init.vae = ""
    # The sketch branch: "unet" copies the UNet's encoder and adds zero convolutions, as ControlNet
    # does; or the folder, file or hub id of a ControlNet.
    init.control = "unet"
    # A LoRA to merge into the weights, or to train further if model.lora selects its modules.
    init.lora = ""
    # For single files, which lack a tokenizer and may not specify the UNet's prediction.
    init.tokenizer = "openai/clip-vit-large-patch14"
    init.prediction = ""  # "epsilon" or "v_prediction"; empty: as in the checkpoint

    # Devices along each axis of the mesh; -1: all remaining ones. Batches are sharded over both
    # axes, parameters, optimiser state and average over "fsdp".
    config.mesh = ConfigDict({"data": -1, "fsdp": 1})
    # Frozen parameters along "fsdp": "sharded", gathered in each step; or "replicated", which needs
    # more memory and less communication.
    config.mesh.frozen = "sharded"

    config.data = data = ConfigDict()
    data.dir = "data"
    data.dataset = "openmoji/recolor"  # or several, with weights: "sketchy:0.5,coco:0.5"
    data.recolorings = 16  # images per sketch in the prepared data
    # Regions of the prepared data: "strokes", areas that strokes enclose; "ink", connected pieces
    # of ink; "page", one region.
    data.regions = "strokes"
    # Edges of the prepared graphs: "adjacency", between regions with a common border;
    # "containment", between a region and those inside it; "knn", to the k nearest; "radius", up to
    # this distance of centroids in page widths; "hybrid", all of these.
    data.graph = ConfigDict({"kind": "hybrid", "k": 3, "radius": 0.25})
    data.image_size = 64  # px, side of the training images; sampling takes other sizes too
    # Sizes of the training images in place of squares: (), squares of image_size; texts such as
    # ("512x512", "576x448"), width first, px; or ("auto",), sizes of about image_size² px up to
    # 2:1. Each image has the size of the nearest proportions, each batch one size. Datasets of
    # square images, such as openmoji, need the square among them.
    data.buckets = ()
    data.text_length = 40  # tokens of a caption, including BOS and EOS
    data.max_regions = 33  # including one padding node
    data.max_edges = 192
    # Probabilities, 0 … 1, of sketch augmentations in each epoch: thicker or thinner lines, gaps,
    # distortion, partial erasure, specks and smudges. Regions do not change.
    data.augment = ConfigDict(
        {"stroke_width": 0.0, "gaps": 0.0, "wobble": 0.0, "erasure": 0.0, "noise": 0.0}
    )
    # Datasets whose training examples are mirrored with probability 1/2: "own", only openmoji;
    # "captions", also photographs, if the caption names no side, or names sides in English phrases
    # such as "on the left", which are then exchanged.
    data.mirror = "own"
    # Comma-separated tags of captions in training: shuffled, and each left out with the
    # probability `dropout`, 0 … 1, except for the first `keep`.
    data.tags = ConfigDict({"shuffle": False, "dropout": 0.0, "keep": 0})
    # Caches by `prepare --cache` that replace frozen networks of config.init.checkpoint in each
    # step: "latents", "text" or "latents,text".
    data.cache = ""

    config.model = model = ConfigDict()
    model.dtype = "float32"  # of the computation; trainable parameters are in float32
    # Rematerialisation in the backward pass, which saves memory and costs time: "none";
    # "pointwise", norms and activations but no products; "attention", each spatial transformer;
    # "blocks", each ResNet and transformer; "full", each level of the UNet and the sketch branch.
    model.remat = "none"
    # "haar", the orthonormal wavelet transform: exact, no parameters; or "kl", Stable Diffusion's.
    model.autoencoder = "haar"
    model.haar_levels = 2  # 64 x 64 x 3 becomes 16 x 16 x 48
    # Names as in diffusers' unet/config.json, where attention_head_dim is the number of heads.
    model.unet = ConfigDict(
        {
            "block_out_channels": (64, 96),
            "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            "layers_per_block": 1,
            "attention_head_dim": 4,
            "cross_attention_dim": 128,
        }
    )
    # Names as in diffusers' vae/config.json.
    model.vae = ConfigDict(
        {
            "block_out_channels": (128, 256, 512, 512),
            "layers_per_block": 2,
            "latent_channels": 4,
            "norm_num_groups": 32,
            "scaling_factor": 0.18215,
        }
    )
    model.conditioning_channels = (16, 32, 96)  # of the sketch's embedding; stride 2 between them
    # Names as in transformers' text_encoder/config.json.
    model.text_encoder = ConfigDict(
        {
            "vocab_size": 4096,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        }
    )
    # SDXL's second text encoder; empty: there is none. Its own checkpoint defines it.
    model.text_encoder_2 = ConfigDict()
    # Fields of the sketch branch that differ from `unet`, as of a small ControlNet of SDXL.
    model.control = ConfigDict()
    model.clip_skip = 0  # number of the text encoder's last layers to skip; --clip_skip overrides
    # LoRA modules by patterns over their paths, such as "unet/.*/attn[12]/to_[qkv]" or
    # "unet/.*/conv[12]".
    model.lora = ConfigDict({"patterns": (), "rank": 8, "alpha": 8.0, "dropout": 0.0})
    # fusion balances sketch and text: "learned", "heuristic", "hybrid" or "equal". inject selects
    # how regions act on the UNet; with () Stage 2 continues Stage 1 without RAGAF.
    model.ragaf = ConfigDict(
        {"width": 128, "layers": 2, "heads": 4, "fusion": "learned", "inject": ("features", "bias")}
    )

    config.diffusion = diffusion = ConfigDict()
    diffusion.schedule = "linear"  # or "scaled_linear", "cosine"
    diffusion.steps = 1000
    diffusion.beta_start = 1e-4
    diffusion.beta_end = 0.02
    diffusion.zero_terminal_snr = True
    diffusion.prediction = "sample"  # or "epsilon", "v_prediction"
    # Sampling's timesteps; names as in diffusers' scheduler_config.json.
    diffusion.timestep_spacing = "trailing"  # or "leading", "linspace"
    diffusion.steps_offset = 0  # of "leading"; 1 for Stable Diffusion 1
    # Sampling of a distilled checkpoint (SD-Turbo, LCM); 0 steps: it is not distilled.
    diffusion.distilled_steps = 0
    diffusion.distilled_sampler = "euler"
    diffusion.distilled_guidance = 1.0
    diffusion.original_steps = 50  # timesteps that an LCM was distilled on
    diffusion.set_alpha_to_one = True  # False: ddim ends at timestep 0's noise level, not at 0
    # Weight of a prediction of x_0: min(SNR, max_snr) + 1. With a cap of 500, timesteps with little
    # noise dominate the loss and samples stay noisy.
    diffusion.max_snr = 5.0
    diffusion.min_snr_gamma = config_dict.placeholder(float)

    config.train = train = ConfigDict()
    train.steps = 2500
    train.batch_size = 16  # over all devices
    # Micro-batches per step, for gradient accumulation: the same gradient with less memory.
    train.accumulation = 1
    # Stage 2: additional examples per step for RAGAF alone, without denoising.
    train.read_examples = 0
    train.optimizer = "adamw"  # or "adafactor", with factored second moments
    train.learning_rate = 2e-3
    train.warmup_steps = 100
    train.weight_decay = 0.01
    train.clip_norm = 1.0
    # A step with a NaN or infinite gradient changes nothing; this many in a row end the run.
    train.max_skipped = 10
    train.ema_decay = 0.999
    train.text_dropout = 0.1
    train.sketch_dropout = 0.1
    train.appearance_weight = 1.0  # Stage 2: each region's feature predicts its mean latent
    # Regular expressions over parameter paths; the first list has priority.
    train.trainable = (".*",)
    train.frozen = ()

    config.log_every = 20
    config.validate_every = 500
    config.validation_examples = 32
    config.sample_every = 1000
    config.sample_examples = 8
    config.checkpoint_every = 500
    # Condition response: the increase of the held-out loss, and the change of samples, with another
    # example's sketch, graph or caption.
    config.response = response = ConfigDict()
    response.every = 100  # steps
    response.examples = 8  # held-out
    response.sample_steps = 4
    response.warn_after = 200  # steps; a response of zero from here on gives a warning
    config.evaluation_examples = 144  # held-out examples for --mode=evaluate
    # Weights for some metrics of --mode=evaluate: local files or folders, or hub ids in the cache;
    # nothing is downloaded. See docs/evaluation.md.
    config.metrics = ConfigDict(
        {
            "inception": "",  # FID, KID, Inception score
            "lpips_alex": "",
            "lpips_vgg": "",
            "clip": "",  # CLIP score, CMMD
        }
    )
    # Checkpoints to keep: the newest, those with the greatest best_metric, and one every keep_every
    # steps (0: none).
    config.keep_last = 2
    config.keep_best = 1
    config.best_metric = "response/sketch"
    config.keep_every = 0
    # Memory per device, GiB. Training selects the fastest model.remat, train.accumulation and
    # prepared caches that fit, and --mode=plan prints them. 0: training uses the fields as set,
    # and the plan uses the device's memory.
    config.memory_budget_gib = 0.0
    config.wandb_project = ""  # empty: no Weights & Biases

    config.sample = sample = ConfigDict()
    sample.sampler = "dpm_solver_pp_2m"  # or another one of docs/sampling.md
    # Noise levels: "uniform", at diffusion.timestep_spacing; or "karras" or "exponential".
    sample.sigmas = "uniform"
    sample.steps = 20
    sample.guidance = 3.0
    sample.sketch_guidance = 1.0
    # Below this share of the timesteps both scales are 1, because guidance only adds grain there.
    sample.guidance_until = 0.3
    sample.strength = 0.9  # noise that Stage 2 adds to Stage 1's image: 0 none, 1 pure noise
    return config
