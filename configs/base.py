"""Every field of a configuration, documented once.

`stage1.py` and `stage2.py` name only what differs. Sizes here are those of the small pixel model on
64 × 64 drawings, which two CPU cores can train.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The fields that every stage and dataset share."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.stage = 1
    # Stage 2 starts from this workdir's averaged parameters, and samples from its pictures.
    config.stage1 = ""
    # Which of its checkpoints: "newest", "best" (by that run's best_metric) or a step.
    config.stage1_checkpoint = "newest"

    # Stable Diffusion's weights to begin with; what they are decides config.model's networks but
    # for RAGAF, config.diffusion and data.text_length.
    config.init = init = ml_collections.ConfigDict()
    # A folder in diffusers' layout, a .safetensors file in CompVis's, or a hub id. Empty: none.
    init.checkpoint = ""
    init.variant = ""  # of its files, such as "fp16" or "non_ema"
    # The sketch branch: "unet" copies the UNet's encoder and adds zero convolutions, as ControlNet
    # does; or the folder, file or hub id of a ControlNet.
    init.control = "unet"
    # A LoRA to merge into the weights, or to go on training where model.lora chooses its modules.
    init.lora = ""
    # Single files carry no tokenizer, and may not say what their UNet predicts.
    init.tokenizer = "openai/clip-vit-large-patch14"
    init.prediction = ""  # "epsilon" or "v_prediction"; empty: as the checkpoint says

    # Devices along each axis of the mesh: batches are shared out over both, parameters, optimiser
    # and average over "fsdp" alone; -1: all that are left.
    config.mesh = ml_collections.ConfigDict({"data": -1, "fsdp": 1})
    # Frozen parameters along "fsdp": "sharded", cut like the others and gathered in each step;
    # "replicated", a copy on each device, for more memory and fewer bytes between devices.
    config.mesh.frozen = "sharded"

    config.data = data = ml_collections.ConfigDict()
    data.dir = "data"
    data.dataset = "openmoji/recolor"  # or several, with weights: "sketchy:0.5,coco:0.5"
    data.recolorings = 16  # pictures that each drawing was prepared with
    # What regions are, as the data were prepared: "strokes", areas that strokes enclose; "ink", its
    # connected pieces; "page", which is one region.
    data.regions = "strokes"
    # Which regions the graph connects, as the data were prepared: "adjacency", those with a common
    # border; "containment", one and each that its outline encloses; "knn", each and its k nearest;
    # "radius", those with centroids up to so many page widths apart; "hybrid", all of these.
    data.graph = ml_collections.ConfigDict({"kind": "hybrid", "k": 3, "radius": 0.25})
    data.image_size = 64
    data.text_length = 40  # tokens of a caption, frame included
    data.max_regions = 33  # one more than the drawings have: the padding node
    data.max_edges = 192
    # Probabilities, 0 … 1, of what may happen to a sketch each time it is trained on: its lines
    # thicker or thinner, broken, bent, partly wiped off, or the paper dirty. Labels stay.
    data.augment = ml_collections.ConfigDict(
        {"stroke_width": 0.0, "gaps": 0.0, "wobble": 0.0, "erasure": 0.0, "noise": 0.0}
    )
    # What `prepare --cache` computed with config.init.checkpoint's frozen networks, to be read and
    # not computed in every step: "latents", "text" or "latents,text".
    data.cache = ""

    config.model = model = ml_collections.ConfigDict()
    model.dtype = "float32"  # of the computation; what trains is kept in float32
    # What the backward pass computes again rather than keeps, for less memory and more time:
    # "none"; "pointwise", norms and activations, so that no product is computed twice; "attention",
    # the inside of every spatial transformer; "blocks", that of every ResNet and transformer;
    # "full", that of every level of the UNet and of the sketch branch.
    model.remat = "none"
    # "haar", the orthonormal wavelet transform: exact, no parameters; or "kl", Stable Diffusion's.
    model.autoencoder = "haar"
    model.haar_levels = 2  # 64 x 64 x 3 becomes 16 x 16 x 48
    # Names as in diffusers' unet/config.json; attention_head_dim is the number of heads there.
    model.unet = ml_collections.ConfigDict(
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
    model.vae = ml_collections.ConfigDict(
        {
            "block_out_channels": (128, 256, 512, 512),
            "layers_per_block": 2,
            "latent_channels": 4,
            "norm_num_groups": 32,
            "scaling_factor": 0.18215,
        }
    )
    model.conditioning_channels = (16, 32, 96)  # of the sketch's embedding; halves between them
    # Names as in transformers' text_encoder/config.json.
    model.text_encoder = ml_collections.ConfigDict(
        {
            "vocab_size": 4096,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        }
    )
    model.clip_skip = 0  # last layers of the text encoder that are left out
    # Low-rank adapters beside the weights: patterns over paths of modules, such as
    # "unet/.*/attn[12]/to_[qkv]" or "unet/.*/conv[12]"; none without patterns.
    model.lora = ml_collections.ConfigDict(
        {"patterns": (), "rank": 8, "alpha": 8.0, "dropout": 0.0}
    )
    # fusion balances sketch and text: "learned", "heuristic", "hybrid" or "equal". inject says how
    # regions act on the UNet: () leaves RAGAF out, and Stage 2 trains the same networks on.
    model.ragaf = ml_collections.ConfigDict(
        {
            "width": 128,
            "layers": 2,
            "heads": 4,
            "fusion": "learned",
            "inject": ("features", "bias"),
        }
    )

    config.diffusion = diffusion = ml_collections.ConfigDict()
    diffusion.schedule = "linear"  # or "scaled_linear", "cosine"
    diffusion.steps = 1000
    diffusion.beta_start = 1e-4
    diffusion.beta_end = 0.02
    diffusion.zero_terminal_snr = True
    diffusion.prediction = "sample"  # or "epsilon", "v_prediction"
    # What sampling makes of the timesteps; names as in diffusers' scheduler_config.json.
    diffusion.timestep_spacing = "trailing"  # or "leading", "linspace"
    diffusion.steps_offset = 0  # of "leading"; Stable Diffusion 1 has 1
    # Of a distilled checkpoint (SD-Turbo, LCM): the steps in which it is sampled without guidance.
    diffusion.distilled_steps = 0
    diffusion.set_alpha_to_one = True  # False: ddim ends with timestep 0's noise, not without any
    # Weight of a prediction of x_0: min(SNR, max_snr) + 1. A hundred times the cap, and the almost
    # clean timesteps outshout all others: samples stay speckled.
    diffusion.max_snr = 5.0
    diffusion.min_snr_gamma = ml_collections.config_dict.placeholder(float)

    config.train = train = ml_collections.ConfigDict()
    train.steps = 2500
    train.batch_size = 16  # over all devices
    # A step's batch goes through the networks in so many parts, one after the other: the same
    # gradient with less memory.
    train.accumulation = 1
    # Stage 2: further examples of a step of which RAGAF reads words and graph, without denoising.
    train.read_examples = 0
    train.optimizer = "adamw"  # or "adafactor", whose moments of a matrix are a row and a column
    train.learning_rate = 2e-3
    train.warmup_steps = 100
    train.weight_decay = 0.01
    train.clip_norm = 1.0
    # A step whose gradient is no number changes nothing; so many in a row end the run.
    train.max_skipped = 10
    train.ema_decay = 0.999
    train.text_dropout = 0.1
    train.sketch_dropout = 0.1
    train.appearance_weight = 1.0  # Stage 2: each region's feature tells its mean latent
    # Regular expressions over the paths of parameters; the first list wins.
    train.trainable = (".*",)
    train.frozen = ()

    config.log_every = 20
    config.validate_every = 500
    config.validation_examples = 32
    config.sample_every = 1000
    config.sample_examples = 8
    config.checkpoint_every = 500
    # Does the model listen? Every so many steps the held-out loss and samples are compared with
    # those under another drawing's sketch, graph or caption.
    config.response = ml_collections.ConfigDict(
        {
            "every": 100,
            "examples": 8,  # held-out drawings that are sampled for it
            "sample_steps": 4,
            "warn_after": 200,  # a response still at zero after so many steps is said aloud
        }
    )
    config.evaluation_examples = 144  # held-out drawings that --mode=evaluate samples
    # Weights that --mode=evaluate needs for some metrics: files, folders or hub ids of what is on
    # this machine; nothing is fetched. Without them, the others remain: see docs/evaluation.md.
    config.metrics = ml_collections.ConfigDict(
        {
            "inception": "",  # FID, KID, Inception score
            "lpips_alex": "",
            "lpips_vgg": "",
            "clip": "",  # CLIP score, CMMD
        }
    )
    # Checkpoints that stay: the newest, those with the greatest best_metric, one every so often.
    config.keep_last = 2
    config.keep_best = 1
    config.best_metric = "response/sketch"
    config.keep_every = 0  # 0: none
    # Memory of a device, within which training takes the cheapest of model.remat,
    # train.accumulation and prepared caches, and --mode=plan shows them. 0: training takes them as
    # they are set, and a plan has what the device has.
    config.memory_budget_gib = 0.0
    config.wandb_project = ""  # empty: no Weights & Biases

    config.sample = sample = ml_collections.ConfigDict()
    sample.sampler = "dpm_solver_pp_2m"  # or "ddim", "unipc", "euler", "heun", "ddpm"
    sample.steps = 20
    sample.guidance = 3.0
    sample.sketch_guidance = 1.0
    # Below this share of the timesteps both scales count as 1: there, guidance adds but grain.
    sample.guidance_until = 0.3
    sample.strength = 0.9  # how far Stage 2 noises Stage 1's picture: 0 not at all, 1 wholly
    return config
