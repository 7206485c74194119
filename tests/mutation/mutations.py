"""Faults that a developer could introduce, one line each, for `run.py`.

Every mutation keeps its module importable and changes what a user gets.
"""

import ast
import dataclasses


@dataclasses.dataclass(frozen=True)
class Mutation:
    """One fault.

    Attributes:
        path: the file, relative to the root.
        before: a part of one line that occurs once in the file.
        after: what replaces it.
        why: what a user would lose.
    """

    path: str
    before: str
    after: str
    why: str

    def applied(self, text: str) -> str:
        """The mutated text of the file.

        Raises:
            ValueError: `before` is not found once, or the result is no other program.
        """
        if (count := text.count(self.before)) != 1:
            raise ValueError(f"{self.path}: {self.before!r} is found {count} times, not once")
        changed = text.replace(self.before, self.after)
        try:
            same = ast.dump(ast.parse(changed)) == ast.dump(ast.parse(text))
        except SyntaxError as error:
            raise ValueError(f"{self.path}: {self.after!r} does not parse: {error}") from None
        if same:
            raise ValueError(f"{self.path}: {self.before!r}: the program stays the same")
        return changed


MUTATIONS = (
    # Where runs lie, and what they start from.
    Mutation(
        "main.py",
        "                if not train_stage(stage_config, folder):",
        "                if train_stage(stage_config, folder) is None:",
        "--mode=both starts Stage 2 from a Stage 1 that was stopped",
    ),
    Mutation(
        "main.py",
        "    one = load_config(first, set_fields())",
        "    one = load_config(first, {})",
        "--mode=both trains Stage 1 without the fields of the command line",
    ),
    Mutation(
        "main.py",
        "    if jax.process_count() == 1:  # otherwise",
        "    if jax.process_count() > 0:  # otherwise",
        "several processes that train together prepare the same data at once",
    ),
    Mutation(
        "ragaf_jax/training/config_files.py",
        "    dataset = dataset or _default_dataset(path)",
        "    dataset = dataset or ''",
        "configs/stage2.py:openmoji does not find what configs/stage1.py has trained",
    ),
    Mutation(
        "input_pipeline/options.py",
        "regions=data.regions",
        'regions="strokes"',
        "config.data.regions has no effect on data that prepare themselves",
    ),
    Mutation(
        "input_pipeline/options.py",
        "buckets=sizes, graph=graph",
        "buckets=sizes",
        "config.data.graph has no effect on data that prepare themselves",
    ),
    Mutation(
        "input_pipeline/configured.py",
        "name, split, options_of(data), data.mirror)",
        'name, split, options_of(ConfigDict({**data, "graph": {}})), data.mirror)',
        "training reads records of another graph than config.data.graph",
    ),
    Mutation(
        "ragaf_jax/sampling/request.py",
        "graph_config = GraphConfig(**stage.config.data.graph)",
        "graph_config = GraphConfig()",
        "a model samples with another graph than it was trained with",
    ),
    Mutation(
        "input_pipeline/preparation/processes.py",
        'sys.modules["__main__"] = types.ModuleType("__main__")',
        "pass",
        "each process that prepares data imports JAX with main.py",
    ),
    # The choice of a checkpoint.
    Mutation(
        "ragaf_jax/checkpoints/reading.py",
        "if checkpoint != BEST:",
        "if checkpoint == BEST:",
        "--checkpoint=best and a step are confused",
    ),
    Mutation(
        "ragaf_jax/training/setup.py",
        "load_params(Path(config.stage1), checkpoint=config.stage1_checkpoint)",
        "load_params(Path(config.stage1))",
        "Stage 2 starts from the newest Stage 1 whatever config.stage1_checkpoint says",
    ),
    Mutation(
        "ragaf_jax/sampling/command/from_flags.py",
        "if step in saved_steps(",
        "if step not in saved_steps(",
        "--from samples a stage that was trained further, though the recorded checkpoint is kept",
    ),
    Mutation(
        "ragaf_jax/export.py",
        'if logged["step"] <= step:',
        'if logged["step"] >= 0:',
        "the card of an earlier checkpoint has numbers of later steps",
    ),
    # Regions and their graphs.
    Mutation(
        "ragaf_jax/graph/measure.py",
        "(across + diagonal / math.sqrt(2))",
        "(across + diagonal / 2)",
        "boundary lengths depend on their direction",
    ),
    Mutation(
        "ragaf_jax/graph/features.py",
        'EDGE_FEATURES.index("offset_x")] *= -1',
        'EDGE_FEATURES.index("offset_y")] *= -1',
        "graphs of mirrored examples point the wrong way",
    ),
    Mutation(
        "ragaf_jax/graph/build.py",
        'kind="stable")[:, : min(k, n - 1)]',
        'kind="stable")[:, : min(k, n)]',
        "small graphs mark a region as its own neighbour",
    ),
    Mutation(
        "ragaf_jax/graph/build.py",
        "return np.rint(distance / DISTANCE_STEP) * DISTANCE_STEP",
        "return distance",
        "a mirrored page gets other neighbours by rounding",
    ),
    Mutation(
        "ragaf_jax/graph/padding.py",
        "receivers=_extended(graph.receivers, max_edges, n)",
        "receivers=_extended(graph.receivers, max_edges, 0)",
        "padding edges send messages to a real region",
    ),
    Mutation(
        "ragaf_jax/graph/build.py",
        "np.sort(ranked[: max_edges - halves_a_pair])",
        "np.sort(ranked[:max_edges])",
        "trimming leaves an edge without its reverse",
    ),
    Mutation(
        "ragaf_jax/graph/build.py",
        '("self", "adjacency", "containment")]',
        '("self", "containment", "adjacency")]',
        "trimming drops adjacency before containment",
    ),
    Mutation(
        "ragaf_jax/graph/ink_components.py",
        '1 + np.argsort(-areas[1:], kind="stable")',
        '1 + np.argsort(areas[1:], kind="stable")',
        "ink mode keeps the smallest pieces",
    ),
    Mutation(
        "ragaf_jax/graph/merging.py",
        "-math.log(neck_splits)",
        "math.log(neck_splits)",
        "areas are split less where more is asked for",
    ),
    Mutation(
        "ragaf_jax/graph/merging.py",
        "self.on_frame[keep] or self.on_frame[gone]",
        "self.on_frame[keep] and self.on_frame[gone]",
        "the outside leaks into merged regions",
    ),
    Mutation(
        "ragaf_jax/graph/borders.py",
        "right[width - 1 :: width] = False",
        "right[width::width] = False",
        "cells at the page's left and right sides are neighbours",
    ),
    Mutation(
        "ragaf_jax/graph/prepare.py",
        "if found == region_config.max_regions:",
        "if found > region_config.max_regions:",
        "data statistics report no merged regions",
    ),
    # Networks.
    Mutation(
        "ragaf_jax/nets/kernels/tiled.py",
        "delta = (widened(g) * widened(out)).sum(-1, keepdims=True)",
        "delta = (widened(g) * widened(out)).mean(-1, keepdims=True)",
        "training follows wrong attention gradients",
    ),
    Mutation(
        "ragaf_jax/nets/kernels/flash_tpu_blocks.py",
        "keys < sizes.keys, scores, _HIDDEN",
        "keys <= sizes.keys, scores, _HIDDEN",
        "on TPUs a padding key takes a share of the attention",
    ),
    Mutation(
        "ragaf_jax/nets/kernels/flash_tpu_blocks.py",
        "of_all += dscores",
        "of_all = dscores",
        "on TPUs RAGAF's bias learns from the last head alone",
    ),
    Mutation(
        "ragaf_jax/nets/attention.py",
        "bias.shape[0] == 1 else divided",
        "bias.shape[1] == 1 else divided",
        "on several devices every example is biased by its neighbours' regions",
    ),
    Mutation(
        "ragaf_jax/nets/blocks.py",
        'epsilon=1e-6, dtype=self.dtype, name="norm"',
        'epsilon=1e-5, dtype=self.dtype, name="norm"',
        "pretrained weights compute other numbers than in diffusers",
    ),
    Mutation(
        "ragaf_jax/nets/blocks.py",
        "nn.gelu(gate, approximate=False)",
        "nn.gelu(gate)",
        "pretrained weights use another activation",
    ),
    Mutation(
        "ragaf_jax/nets/control.py",
        'factor(len(features)) * zero(x, "controlnet_mid_block")',
        'zero(x, "controlnet_mid_block")',
        "sketch_strength has no effect at the mid block",
    ),
    Mutation(
        "ragaf_jax/sampling/controls/settings.py",
        "i / steps < settings.start for i",
        "i / steps <= settings.start for i",
        "a ControlNet acts from another step on than in diffusers",
    ),
    Mutation(
        "ragaf_jax/sampling/pipeline.py",
        "self.weight_facts(control_images)",
        "self.weight_facts()",
        "--from does not find the images of ControlNets that a call of Pipeline recorded",
    ),
    Mutation(
        "ragaf_jax/sampling/command/batch_requests.py",
        "return parse_loras(entries, folder)",
        "return parse_loras(entries)",
        "LoRAs of a table of prompts are looked up in the current folder",
    ),
    Mutation(
        "ragaf_jax/sampling/denoising.py",
        "for x in (nothing, unprompted, 1.0)[-count:]",
        "for x in (nothing, 1.0, 1.0)[-count:]",
        "guess mode keeps the residuals of the evaluation without the prompt",
    ),
    Mutation(
        "ragaf_jax/weights/compvis.py",
        'removeprefix("model.").replace(".", "")',
        'replace(".", "")',
        "the averaged UNet of a single file is not found",
    ),
    Mutation(
        "ragaf_jax/nets/layers.py",
        "(-np.arange(half) / (half - freq_shift))",
        "(-np.arange(half) / half)",
        "UNets with freq_shift see other timesteps",
    ),
    Mutation(
        "ragaf_jax/nets/lora.py",
        "jnp.where(kept, x / (1 - dropout), 0)",
        "jnp.where(kept, x, 0)",
        "LoRA dropout shrinks the update in training",
    ),
    Mutation(
        "ragaf_jax/nets/model.py",
        "jax.random.fold_in(rng, NETWORKS.index(name))",
        "jax.random.fold_in(rng, 0)",
        "LoRA dropout is the same in all networks",
    ),
    Mutation(
        "ragaf_jax/nets/model.py",
        "jnp.ones(labels.shape[0]) if active is None else active,",
        "jnp.ones(labels.shape[0]),",
        "regions stay when the sketch is dropped",
    ),
    Mutation(
        "ragaf_jax/nets/ragaf.py",
        "jnp.where(allowed[:, None], logits, jnp.finfo(jnp.float32).min)",
        "logits",
        "regions attend to padding and to prompts of other regions",
    ),
    Mutation(
        "ragaf_jax/nets/ragaf.py",
        "same = (padded_allowed[..., at] == allowed).all(1)",
        "same = (padded_allowed[..., at] == allowed).any(1)",
        "the text convolution mixes tokens of different regions",
    ),
    Mutation(
        "ragaf_jax/nets/regions.py",
        "cells) / jnp.maximum(mass, 1e-6)",
        "cells) / jnp.maximum(mass, 1.0)",
        "features of regions below one cell are too small",
    ),
    Mutation(
        "ragaf_jax/nets/regions.py",
        'mode="edge")',
        'mode="constant")',
        "regions at the edge of an image of odd size lose half of their share",
    ),
    Mutation(
        "ragaf_jax/graph/features.py",
        "- measures.centroid[senders]) * measures.sides",
        "- measures.centroid[senders])",
        "distances on a page that is no square are longer along its shorter side",
    ),
    Mutation(
        "ragaf_jax/sampling/recorded.py",
        'if not {"sketch", "letterbox"} & {*given}:',
        "if False:",
        "--from samples another size than the recorded one",
    ),
    Mutation(
        "ragaf_jax/nets/blocks.py",
        "y = block(y, text, text_bias)",
        "y = block(y, text, text_bias if i == 0 else None)",
        "RAGAF biases only the first block of SDXL's transformers",
    ),
    Mutation(
        "ragaf_jax/nets/text/sdxl.py",
        'self.clip_skip + 1, self.dtype, name="clip_g"',
        'self.clip_skip, self.dtype, name="clip_g"',
        "SDXL reads the last layer of its second text encoder",
    ),
    Mutation(
        "ragaf_jax/weights/adapters/tensor_names.py",
        '"text_encoder/clip_g": ("lora_te2_",),',
        '"text_encoder/clip_g": ("lora_te_",),',
        "kohya's LoRA of SDXL's second text encoder is refused",
    ),
    Mutation(
        "ragaf_jax/weights/adapters/matching.py",
        "own = SDXL if _SDXL_LEAF in leaves else _SD",
        "own = _SD",
        "a wrong tensor in a LoRA of SDXL is blamed on the base model",
    ),
    Mutation(
        "ragaf_jax/sampling/prompts/embeddings.py",
        '_SDXL = ("clip_l", "clip_g")',
        '_SDXL = ("clip_g", "clip_l")',
        "textual inversions of SDXL are refused",
    ),
    Mutation(
        "ragaf_jax/nets/text/windows.py",
        "pooled * described[:, :1]",
        "pooled",
        "SDXL's empty text keeps its pooled text",
    ),
    Mutation(
        "ragaf_jax/training/initial.py",
        '"time_embedding", "add_embedding", ',
        '"time_embedding", ',
        "SDXL's sketch branch starts with a random embedding of pooled text and sizes",
    ),
    Mutation(
        "ragaf_jax/nets/build.py",
        'jnp.dtype("float32") if vae.force_upcast else dtype',
        "dtype",
        "SDXL's VAE computes in bfloat16",
    ),
    Mutation(
        "ragaf_jax/nets/text/clip.py",
        "same.sum(-1) - 1 + (texts > 0)",
        "same.sum(-1) - 1",
        "region prompts start at the position of BOS",
    ),
    Mutation(
        "ragaf_jax/nets/vae.py",
        "EPSILON = 1e-6",
        "EPSILON = 1e-5",
        "the autoencoder's normalisation differs from diffusers'",
    ),
    Mutation(
        "ragaf_jax/nets/kl_autoencoder.py",
        "jnp.exp(0.5 * log_variance) * scale",
        "jnp.exp(log_variance) * scale",
        "latents are sampled with the variance as deviation",
    ),
    # Diffusion.
    Mutation(
        "ragaf_jax/diffusion/guidance.py",
        "(by_sketch - by_text) * sketch",
        "(1 - by_text) * sketch",
        "guidance by the sketch brightens all latents",
    ),
    Mutation(
        "ragaf_jax/diffusion/loss.py",
        "min_snr_gamma) / (snr + 1.0)",
        "min_snr_gamma) / jnp.maximum(snr, 1e-8)",
        "min-SNR weights of v-prediction are those of epsilon",
    ),
    Mutation(
        "ragaf_jax/diffusion/loss.py",
        "jnp.minimum(snr, max_snr) + 1.0 if kind",
        "jnp.minimum(snr, max_snr) if kind",
        "the noisiest timesteps are not trained",
    ),
    Mutation(
        "ragaf_jax/diffusion/prediction.py",
        "float(schedule.alpha[-1]) == 0.0",
        "float(schedule.alpha[0]) == 0.0",
        "epsilon with zero terminal SNR is no longer refused",
    ),
    Mutation(
        "ragaf_jax/diffusion/ode_samplers.py",
        "span / (2 * jnp.where(usable, before, 1))",
        "before / (2 * jnp.where(usable, span, 1))",
        "DPM-Solver++ is first order on uneven steps",
    ),
    Mutation(
        "ragaf_jax/diffusion/ode_samplers.py",
        "take[i] * (x0 - i * before)",
        "take[i] * (x0 - before)",
        "Heun's first evaluation reads the step before",
    ),
    Mutation(
        "ragaf_jax/diffusion/ode_samplers.py",
        "memory=(x, x0_before)",
        "memory=(after, x0_before)",
        "UniPC corrects from an uncorrected x",
    ),
    Mutation(
        "ragaf_jax/sampling/denoising.py",
        "(others.x, others.x0, others.memory),",
        "(others.x, others.x0, state.memory),",
        "blending mixes the states of multistep samplers",
    ),
    Mutation(
        "ragaf_jax/diffusion/ancestral_samplers.py",
        "fresh = (1 - ratio) * (1 + ratio)",
        "fresh = 1 - ratio",
        "DDPM adds too little noise",
    ),
    Mutation(
        "ragaf_jax/diffusion/noise.py",
        "return example_noise(folded(keys, step), shape)",
        "return example_noise(keys, shape)",
        "DDPM adds the same noise in every step",
    ),
    Mutation(
        "ragaf_jax/diffusion/samplers.py",
        'clean_end=set_alpha_to_one or sampler not in ("ddim", "pndm"),',
        "clean_end=set_alpha_to_one,",
        "samplers other than DDIM and PNDM leave noise in the image",
    ),
    Mutation(
        "ragaf_jax/diffusion/ode_samplers.py",
        'title="Euler", finite_snr=True',
        'title="Euler"',
        "Euler differs from diffusers at zero terminal SNR",
    ),
    Mutation(
        "ragaf_jax/diffusion/pndm.py",
        "combined = jnp.where(i == 0, multistep, (first + output) / 2)",
        "combined = multistep",
        "PNDM's first step ignores its second evaluation",
    ),
    Mutation(
        "ragaf_jax/diffusion/ancestral_samplers.py",
        "(first + jnp.sqrt(root) * second) / jnp.sqrt(1 + root)",
        "second",
        "the noises of DPM-Solver++ SDE's two evaluations are of two paths",
    ),
    Mutation(
        "ragaf_jax/diffusion/ancestral_samplers.py",
        "jnp.where(moves, sigma, 0)",
        "jnp.where(moves, 0 * sigma, 0)",
        "LCM adds no noise between its steps",
    ),
    Mutation(
        "ragaf_jax/diffusion/noise_grid.py",
        "first, last = ends ** (1 / _RHO)",
        "first, last = ends",
        "Karras sigmas are even",
    ),
    Mutation(
        "ragaf_jax/sampling/denoising.py",
        "guidance = jnp.where(level.t >= last, guidance - 1, 0.0)",
        "guidance = jnp.where(level.t >= last, guidance, 0.0)",
        "an LCM is guided by a scale that is 1 too great",
    ),
    Mutation(
        "ragaf_jax/diffusion/schedule.py",
        "alpha_bar[1:] / alpha_bar[:-1], 0.999)",
        "alpha_bar[1:] / alpha_bar[:-1], 0.99)",
        "the cosine schedule ends with too little noise",
    ),
    Mutation(
        "ragaf_jax/diffusion/timesteps.py",
        "xp.round(xp.float32(strength) * left)",
        "xp.floor(xp.float32(strength) * left)",
        "timesteps differ by one from diffusers",
    ),
    Mutation(
        "ragaf_jax/diffusion/timesteps.py",
        "if not 1 <= steps <= schedule_steps:",
        "if not 1 <= steps:",
        "too many steps repeat timesteps without an error",
    ),
    # Weights.
    Mutation(
        "ragaf_jax/weights/compvis.py",
        '("qkv".index(part[1]), 3)',
        '("kqv".index(part[1]), 3)',
        "queries and keys of SD 2 single files are swapped",
    ),
    Mutation(
        "ragaf_jax/weights/compvis.py",
        'Place("text_projection", transposed=True)',
        'Place("text_projection")',
        "SDXL single files project the pooled text by a transposed matrix",
    ),
    Mutation(
        "ragaf_jax/weights/configs/compvis_sizes.py",
        "layers -= any(name in shapes for name in OPEN_CLIP_HEAD)",
        "layers -= 1",
        "pruned SD 2 files lose a text layer silently",
    ),
    Mutation(
        "ragaf_jax/weights/fingerprint.py",
        '_ENCODING = ("encoder", "quant_conv")',
        '_ENCODING = ("encoder",)',
        "a latents cache of another quant_conv is used",
    ),
    Mutation(
        "ragaf_jax/weights/load.py",
        "check_finite(array, places[path].name, store.source)",
        "...",
        "damaged weights with NaNs are loaded",
    ),
    Mutation(
        "ragaf_jax/weights/locate.py",
        'VARIANTS = ("", "fp16", "non_ema")',
        'VARIANTS = ("", "non_ema", "fp16")',
        "raw weights are preferred to averaged ones",
    ),
    Mutation(
        "ragaf_jax/weights/adapters/opening.py",
        "factor = rank**0.5 if",
        "factor = rank if",
        "rank-stabilised LoRA is loaded too strong",
    ),
    Mutation(
        "ragaf_jax/sampling/lora/merging.py",
        'np.float32(lora.text if network == "text_encoder" else lora.unet)',
        "np.float32(lora.unet)",
        "a LoRA changes the text encoder with the UNet's strength",
    ),
    Mutation(
        "ragaf_jax/sampling/lora/merging.py",
        "self._files[path].stamps != stamps(path)",
        "False",
        "a LoRA file that has changed is not read again",
    ),
    Mutation(
        "ragaf_jax/weights/adapters/updates.py",
        "for i, size in enumerate(adapter.magnitude.shape) if size == 1",
        "for i, size in enumerate(adapter.magnitude.shape) if i",
        "DoRA along the inputs is normalised along the outputs",
    ),
    Mutation(
        "ragaf_jax/weights/adapters/reading.py",
        "first = first.T if transposed else first",
        "...",
        "LoHa with cores is loaded with exchanged axes",
    ),
    Mutation(
        "ragaf_jax/weights/names.py",
        "else array.transpose(3, 2, 0, 1)",
        "else array.transpose(3, 2, 1, 0)",
        "exported convolutions are transposed in space",
    ),
    Mutation(
        "ragaf_jax/weights/single_files.py",
        '"!" if is_sd2 else None,',
        "None,",
        "SD 2 single files pad prompts with the wrong token",
    ),
    Mutation(
        "ragaf_jax/weights/save.py",
        '[name for name in adapters if name == "control"]',
        "[]",
        "exports lose the LoRA of the sketch branch",
    ),
    Mutation(
        "ragaf_jax/weights/save.py",
        "np.asarray(x, np.float32), params[name])",
        "np.asarray(x), params[name])",
        "merging in bfloat16 rounds the LoRA away",
    ),
    Mutation(
        "ragaf_jax/weights/save.py",
        "ControlConfig(model.control.config, model",
        "ControlConfig(unet, model",
        "a smaller ControlNet of SDXL is exported with its UNet's sizes",
    ),
    Mutation(
        "ragaf_jax/weights/configs/fits.py",
        'other_half += () if any(depths) else ("cross_attention_dim",)',
        "other_half += ()",
        "a ControlNet without attention in a single file is refused",
    ),
    Mutation(
        "ragaf_jax/weights/configs/compvis_sizes.py",
        "depths = [1 if x is None else x for x in",
        "depths = [x or 1 for x in",
        "a ControlNet whose transformers have no blocks cannot be read from a single file",
    ),
    Mutation(
        "ragaf_jax/weights/configs/networks.py",
        'name, fields["eos_token_id"] = _PROJECTED, 2',
        "name = _PROJECTED",
        "diffusers pools another token of prompts for an exported SDXL",
    ),
    Mutation(
        "ragaf_jax/weights/configs/schedulers.py",
        '"set_alpha_to_one": kind != "PNDMScheduler",',
        '"set_alpha_to_one": True,',
        "PNDM checkpoints end at another noise level",
    ),
    Mutation(
        "ragaf_jax/weights/configs/schedulers.py",
        'and not config.get("rescale_betas_zero_snr")',
        "",
        "checkpoints with a zero terminal SNR are sampled as if they were distilled",
    ),
    Mutation(
        "ragaf_jax/weights/configs/kinds.py",
        "if unet.in_channels != latent:",
        "if unet.in_channels < latent:",
        "a UNet for inpainting is taken for a text-to-image model",
    ),
    Mutation(
        "ragaf_jax/weights/stores.py",
        "path.chmod(0o666 & ~mask)",
        "path.chmod(0o600 & ~mask)",
        "other users cannot read exported weights",
    ),
    # Training.
    Mutation(
        "ragaf_jax/training/adopt.py",
        "for k, v in fields.items() if k not in given}",
        "for k, v in fields.items()}",
        "a distilled checkpoint's settings override those of the command",
    ),
    Mutation(
        "ragaf_jax/training/accumulation.py",
        "jax.tree.map(lambda x: x / count, total)",
        "total",
        "accumulated losses and gradients are multiplied by the number of microbatches",
    ),
    Mutation(
        "ragaf_jax/training/caches.py",
        'or "text_encoder" in params.get("lora", {})',
        'or "text_encoder" in params.get("adapters", {})',
        "stale text states hide a LoRA of the text encoder",
    ),
    Mutation(
        "ragaf_jax/checkpoints/reading.py",
        'Literal["ema", "trainable"] = "ema",',
        'Literal["ema", "trainable"] = "trainable",',
        "sampling uses raw weights, not the average",
    ),
    Mutation(
        "ragaf_jax/checkpoints/keeping.py",
        "(scores[step], step), reverse=True",
        "(scores[step], -step), reverse=True",
        "of equal checkpoints the oldest is kept",
    ),
    Mutation(
        "ragaf_jax/training/loop.py",
        "iterator.set_state(restored.data_state)",
        "iterator.set_state(iterator.get_state())",
        "a resumed run repeats the first batches",
    ),
    Mutation(
        "ragaf_jax/training/loop.py",
        'response_state = restored.meta.get("response", {})',
        "response_state = {}",
        "a resumed run repeats its response messages",
    ),
    Mutation(
        "ragaf_jax/training/loop.py",
        "validate(local_copy(state.ema_params), held_out",
        "validate(local_copy(state.params), held_out",
        "validation scores the raw weights",
    ),
    Mutation(
        "ragaf_jax/losses/terms.py",
        "1.0) * regions.active[:, None]",
        "1.0) * jnp.ones_like(regions.active)[:, None]",
        "examples without regions enter the appearance loss",
    ),
    Mutation(
        "ragaf_jax/losses/objective.py",
        "jnp.where(chosen, jnp.asarray(empty, given.dtype), given)",
        "given if given.ndim == 3 else jnp.where(chosen, empty, given)",
        "dropped text keeps its states with a cache",
    ),
    Mutation(
        "ragaf_jax/losses/terms.py",
        "loss + objective.train[term.weight] * value",
        "loss + value",
        "loss terms ignore their weights",
    ),
    Mutation(
        "ragaf_jax/losses/objective.py",
        "first = text - min(text, sketch) / 2",
        "first = text",
        "guidance has never seen both conditions dropped",
    ),
    Mutation(
        "ragaf_jax/losses/objective.py",
        "noise=jax.random.split(keys[0], size),",
        "noise=jax.random.split(keys[4], size),",
        "noise equals the draw of the latents",
    ),
    Mutation(
        "ragaf_jax/training/step.py",
        "fine = jnp.isfinite(loss) & jnp.isfinite(norm)",
        "fine = jnp.isfinite(loss)",
        "infinite gradients reach the weights",
    ),
    Mutation(
        "ragaf_jax/monitoring/writers.py",
        "if _step(line) <= first_step]",
        "if _step(line) < first_step]",
        "resuming loses the last logged step",
    ),
    # Sampling.
    Mutation(
        "ragaf_jax/demo/session.py",
        "np.where(old.background[:, None] == new.background, shared / union, 0)",
        "shared / union",
        "on the page, the prompt of the sky moves into a frame drawn around it",
    ),
    Mutation(
        "ragaf_jax/demo/session.py",
        "{match[number]: text for number, text in texts.items() if number in match}",
        "{number: text for number, text in texts.items() if number in match}",
        "on the page, a new stroke moves prompts to other regions",
    ),
    Mutation(
        "ragaf_jax/demo/generation.py",
        "region_negative_prompts=session.negatives)",
        "region_negative_prompts=None)",
        "the page's negative prompts of regions have no effect",
    ),
    Mutation(
        "ragaf_jax/training/untrained.py",
        'if config.init.control == "unet" and "init.control" not in given:',
        'if config.init.control == "unet":',
        "no Stable Diffusion can be adopted without a ControlNet",
    ),
    Mutation(
        "ragaf_jax/sketch_input.py",
        "if ink_tall >= LEAST_INK_SIDE * tall or ink_wide >= LEAST_INK_SIDE * wide:",
        "if ink_tall >= 0:",
        "small subjects are not cropped to their ink",
    ),
    Mutation(
        "ragaf_jax/sampling/pipeline.py",
        "[cut(image, crop) for image in images]",
        "images",
        "an image to begin from is not cropped with its sketch",
    ),
    Mutation(
        "ragaf_jax/figures/phrases.py",
        "if positions:  # the text",
        "if False:  # the text",
        "a region prompt that is cut within a word runs into the next one in figures",
    ),
    Mutation(
        "ragaf_jax/figures/phrases.py",
        "if texts[positions[0]] != texts[before[0]]:",
        "if False:",
        "the texts of two regions are one phrase of the attention figure",
    ),
    Mutation(
        "ragaf_jax/sampling/command/many.py",
        "own_seed = self.seed if one.seed is None else one.seed",
        "own_seed = one.seed or self.seed",
        "the seed 0 of a request is ignored",
    ),
    Mutation(
        "ragaf_jax/sampling/conditions.py",
        "(texts.ids[:, None] == ids[..., None]) & texts.mask[:, None]",
        "texts.ids[:, None] == ids[..., None]",
        "regions without a prompt attend to padding",
    ),
    Mutation(
        "ragaf_jax/sampling/conditions.py",
        "scale = weights * total(means) / jnp.where(changed == 0, 1, changed)",
        "scale = weights",
        "weighted prompts change the scale of the whole text",
    ),
    Mutation(
        "ragaf_jax/sampling/conditions.py",
        "jnp.where(changed == 0, 1, changed)",
        "changed",
        "SDXL's empty texts are NaN beside prompts with weights",
    ),
    Mutation(
        "ragaf_jax/sampling/loaded_stages.py",
        "size_inputs(dataclasses.asdict(options), batch.labels.shape[1:])",
        "size_inputs(dict.fromkeys(SETTINGS), batch.labels.shape[1:])",
        "original size, crop and target size have no effect on samples of SDXL",
    ),
    Mutation(
        "ragaf_jax/sampling/prompts/windows.py",
        "        yield from ((i, window) for window in region.windows)",
        "        yield from ((0, window) for window in region.windows)",
        "region prompts with windows of their own are read by all other regions",
    ),
    Mutation(
        "ragaf_jax/sampling/prompts/syntax.py",
        "spans[start:] = [(part, weight * factor) for part, weight in spans[start:]]",
        "spans[start:] = [(part, factor) for part, weight in spans[start:]]",
        "weights of nested brackets are not multiplied",
    ),
    Mutation(
        "ragaf_jax/sampling/denoising.py",
        "jnp.round((image + 1) * 127.5)",
        "(image + 1) * 127.5",
        "images are half a level too dark",
    ),
    Mutation(
        "ragaf_jax/nets/blocks.py",
        "    out = attention(jnp.repeat(q, count, 0), each(k), each(v), biases)",
        "    out = attention(jnp.tile(q, (count, 1, 1, 1)), each(k), each(v), biases)",
        "in a batch, cells attend with the queries of another example to region prompts",
    ),
    Mutation(
        "ragaf_jax/sampling/conditions.py",
        "weights = jnp.concatenate([mixture.negative] * (count - 1) + [mixture.positive])",
        "weights = jnp.concatenate([mixture.positive] * count)",
        "regions attend to texts of other regions' numbers in the negative prompt",
    ),
    Mutation(
        "ragaf_jax/sampling/denoising.py",
        "            restricted = step < scales.region_steps",
        "            restricted = step <= scales.region_steps",
        "region prompts act in one step more than --region_end says",
    ),
    Mutation(
        "ragaf_jax/sampling/loaded_stages.py",
        '        return used and options.region_method != "attention"',
        "        return used",
        "--region_method=attention has no effect where RAGAF is",
    ),
    Mutation(
        "ragaf_jax/sampling/conditions.py",
        "(share >= OWN_TEXT_SHARE) | home.any(-1) | ~with_text",
        "(share >= OWN_TEXT_SHARE) | ~with_text",
        "prompts of small regions have no effect",
    ),
    Mutation(
        "ragaf_jax/sampling/denoising.py",
        "jax.tree.map(lambda x: x[-count:], denoising.conditioning)",
        "jax.tree.map(lambda x: x[:count], denoising.conditioning)",
        "attention figures show the run without text",
    ),
    Mutation(
        "ragaf_jax/sampling/loop.py",
        "others = denoising if plain is None else plain",
        "others = denoising",
        "regions without a prompt lose the image of the main prompt",
    ),
    Mutation(
        "ragaf_jax/sampling/loop.py",
        "1.0 if latents is None else strength",
        "strength",
        "Stage 1 begins from noise that it takes for a noisy image",
    ),
    Mutation(
        "ragaf_jax/sampling/sampling_config.py",
        "unguided = guidance == 1 and by_sketch is None",
        "unguided = guidance == 1",
        "guidance by the sketch alone has no effect",
    ),
    Mutation(
        "ragaf_jax/sampling/numbered.py",
        "target[number] = min(group)",
        "target[number] = group[0]",
        "merged regions get another number than documented",
    ),
    Mutation(
        "ragaf_jax/sampling/options.py",
        "0 <= int(seed) < 2**32):",
        "0 <= int(seed) <= 2**32):",
        "seed 2**32 overflows instead of an error",
    ),
    Mutation(
        "ragaf_jax/sampling/stage_sampler.py",
        "example_keys(stages[index], 1)[0]",
        "example_keys(stages[0], 1)[0]",
        "both stages sample the same noise",
    ),
    Mutation(
        "ragaf_jax/sampling/pipeline.py",
        "seeds = [seed + i for i in range(count)]",
        "seeds = [seed for _ in range(count)]",
        "all images of a request are the same",
    ),
    Mutation(
        "ragaf_jax/sampling/loaded_stages.py",
        "key = number, sampler",
        'key = number, ""',
        "a second sampler of one session is ignored",
    ),
    Mutation(
        "ragaf_jax/sampling/request.py",
        "limit = min(usual.max_regions, model.max_regions - 1)",
        "limit = min(usual.max_regions, model.max_regions)",
        "sketches with many regions end in an error",
    ),
    Mutation(
        "ragaf_jax/sampling/command/prompt_files.py",
        "{name: text for name, text in record.items() if text}",
        "dict(record)",
        "empty cells of a CSV are refused",
    ),
    # Data.
    Mutation(
        "input_pipeline/cache.py",
        "jnp.stack([images, images[:, :, ::-1]], 1)",
        "jnp.stack([images, images[:, ::-1]], 1)",
        "cached mirror images are upside down",
    ),
    Mutation(
        "input_pipeline/datasets/building.py",
        "yield from (text, swap_sides(text), mirrored(text) or text)",
        "yield text",
        "mirrored captions have unknown words",
    ),
    Mutation(
        "input_pipeline/datasets/coco.py",
        "_photos(root, train, elsewhere=tested, read=read)",
        "_photos(root, train, elsewhere=(), read=read)",
        "test photos of COCO are trained on",
    ),
    Mutation(
        "input_pipeline/datasets/folder.py",
        '(part.split == "train", part.base)',
        '(part.split != "train", part.base)',
        "linked test pictures are trained on",
    ),
    Mutation(
        "input_pipeline/datasets/registry.py",
        "mirrors: bool = False",
        "mirrors: bool = True",
        "photographs are mirrored, and what is left in their captions is not",
    ),
    Mutation(
        "input_pipeline/datasets/sides.py",
        'if _SIDED.search(_PHRASE.sub(" ", caption)):',
        "if not _PHRASE.search(caption):",
        "what is left in a caption becomes what is right, beside a clear side",
    ),
    Mutation(
        "input_pipeline/mirror.py",
        "    if None in captions:\n        return record\n",
        '    captions = [x or y for x, y in zip(captions, record["captions"], strict=True)]\n',
        "photographs are flipped with captions that have no mirrored form",
    ),
    Mutation(
        "input_pipeline/cache.py",
        "source.mirrored_caption(caption) or caption: None",
        "caption: None",
        "training asks for mirrored captions that no cache has",
    ),
    Mutation(
        "input_pipeline/transforms.py",
        "kept, others = tags[: self.keep], tags[self.keep :]",
        "kept, others = [], tags",
        "the trigger word of a tagged data set is shuffled and dropped",
    ),
    Mutation(
        "input_pipeline/datasets/scanning/sidecars.py",
        "        if is_json:\n            return []\n",
        "",
        "large JSON of other tools is rejected",
    ),
    Mutation(
        "input_pipeline/datasets/phrases.py",
        "column, row = np.searchsorted(MIDDLE, centroid)",
        "row, column = np.searchsorted(MIDDLE, centroid)",
        "captions say top for left",
    ),
    Mutation(
        "input_pipeline/datasets/scanning/splits.py",
        "np.maximum(pixels @ pixels.T, pixels @ mirrored.T)",
        "pixels @ pixels.T",
        "mirrored twins cross the splits",
    ),
    Mutation(
        "input_pipeline/datasets/scanning/splits.py",
        "groups = [item.group for item in cut(scan) if item.key not in unusable]",
        "groups = [item.group for item in cut(scan)]",
        "a broken picture takes a place in the test split",
    ),
    Mutation(
        "input_pipeline/datasets/scanning/sources.py",
        "if getattr(one, field) != getattr(two, field)",
        "if getattr(one, field) == getattr(two, field)",
        "pictures replaced under the same names are not noticed",
    ),
    Mutation(
        "ragaf_jax/sampling/recorded.py",
        "digest is not None and now != digest",
        "digest is None and now != digest",
        "a sketch that has changed passes for the recorded one",
    ),
    Mutation(
        "input_pipeline/loader.py",
        "own = slice(process_index, None, process_count)",
        "own = slice(0, None, process_count)",
        "all processes train on the same examples",
    ),
    Mutation(
        "input_pipeline/loader.py",
        "SizeOrder(shares, ",
        "SizeOrder([1] * len(shares), ",
        "rare sizes are trained on as often as frequent ones",
    ),
    Mutation(
        "input_pipeline/mixture.py",
        "weight * len(part) / len(source)",
        "weight",
        "the sizes of a dataset change its share of a mixture",
    ),
    Mutation(
        "input_pipeline/datasets/photos.py",
        "grey = crop_to(grey, size) if task.options.cropped else grey",
        "grey = crop_to(grey, size)",
        "sketches are cropped where their images have margins",
    ),
    Mutation(
        "input_pipeline/loader.py",
        "self._ahead.clear()",
        "...",
        "batches from before a resume are trained on",
    ),
    Mutation(
        "input_pipeline/loader.py",
        "batch, self._state = self._ahead.popleft()",
        "batch, self._state = self._ahead.popleft()[0], self._iterator.get_state()",
        "a resumed run skips prefetched batches",
    ),
    Mutation(
        "input_pipeline/mirror.py",
        'mirrored["latents"] = record["latents"][::-1]',
        'mirrored["latents"] = record["latents"]',
        "flipped sketches train with unflipped latents",
    ),
    Mutation(
        "input_pipeline/mixture.py",
        "all(kind in kinds for kinds in found)",
        "any(kind in kinds for kinds in found)",
        "a mixture claims a cache that one part lacks",
    ),
    Mutation(
        "input_pipeline/extraction/sketch.py",
        "float(np.median(steepness)), FAINTEST, low or 0)",
        "float(np.median(steepness)), low or 0)",
        "smooth photos get lines of quantisation noise",
    ),
    Mutation(
        "input_pipeline/inspection/statistics.py",
        '"regions": self.max_regions - 1,',
        '"regions": self.max_regions,',
        "inspection hides examples that do not fit",
    ),
    Mutation(
        "input_pipeline/transforms.py",
        "captions[int(rng.integers(len(captions)))]",
        "captions[0]",
        "only the first caption of an image is trained on",
    ),
    Mutation(
        "input_pipeline/transforms.py",
        "round(rows.start * target[0] / height)",
        "round(rows.start)",
        "crop offsets of SDXL count the original image's pixels",
    ),
    Mutation(
        "input_pipeline/transforms.py",
        'source[1] - columns.stop if record.get("mirrored", False) else columns.start',
        "columns.start",
        "mirrored images have the crop offset of the image before mirroring",
    ),
    Mutation(
        "input_pipeline/records.py",
        'self.metadata.get("crop", False)',
        "True",
        "whole images in margins count as cropped for SDXL",
    ),
    # Evaluation.
    Mutation(
        "ragaf_jax/evaluation/metrics/attention.py",
        "phrase.sum() / valid",
        "phrase.sum() / len(phrase)",
        "chance counts padding tokens",
    ),
    Mutation(
        "ragaf_jax/evaluation/statistics/bootstrap.py",
        "sums[resample].sum() / counts[resample].sum()",
        "(sums[resample] / counts[resample]).mean()",
        "intervals belong to another mean",
    ),
    Mutation(
        "ragaf_jax/evaluation/statistics/bootstrap.py",
        "return (1.0 - confidence) / 2",
        "return 1.0 - confidence",
        "95 % intervals cover 90 %",
    ),
    Mutation(
        "ragaf_jax/evaluation/metrics/colors.py",
        "if len(paint) >= MIN_PIXELS:",
        "if len(paint) > MIN_PIXELS:",
        "parts of the least size are not judged",
    ),
    Mutation(
        "ragaf_jax/evaluation/metrics/delta_e.py",
        "np.abs(turn) > 180 + 1e-9",
        "np.abs(turn) > 180",
        "opposite hues differ by rounding",
    ),
    Mutation(
        "ragaf_jax/evaluation/metrics/edges.py",
        "thin(strokes.sketch) & ~strokes.hidden",
        "thin(strokes.sketch)",
        "lines under black paint count as missing",
    ),
    Mutation(
        "ragaf_jax/evaluation/evaluate.py",
        "attention_scores(trace.attention[0],",
        "attention_scores(trace.attention[-1],",
        "attention is scored where the picture shows its colours",
    ),
    Mutation(
        "ragaf_jax/evaluation/metrics/kernel.py",
        "np.exp((dots - 1) / BANDWIDTH**2)",
        "np.exp((dots - 1) / (2 * BANDWIDTH**2))",
        "CMMD differs from published ones",
    ),
    Mutation(
        "ragaf_jax/evaluation/networks/clip.py",
        "Image.Resampling.BICUBIC",
        "Image.Resampling.BILINEAR",
        "CLIP sees other pixels than in training",
    ),
    Mutation(
        "ragaf_jax/evaluation/metrics/region_scores.py",
        "1 - overlap.max(1).sum() / total",
        "1 - overlap.max(0).sum() / total",
        "missing borders do not count as leaks",
    ),
    Mutation(
        "ragaf_jax/evaluation/sampled.py",
        "config.sample.to_dict(), config.seed, CHUNK, tokens",
        "config.sample.to_dict(), CHUNK, tokens",
        "kept pictures of another seed are scored",
    ),
    Mutation(
        "ragaf_jax/evaluation/sampled.py",
        "jax.random.fold_in(jax.random.key(config.seed), chunk)",
        "jax.random.key(config.seed)",
        "every chunk samples the same noise",
    ),
    Mutation(
        "ragaf_jax/evaluation/statistics/set_intervals.py",
        "float(value - above), float(value - below))",
        "float(value + below), float(value + above))",
        "intervals of FID lean to the wrong side",
    ),
    Mutation(
        "ragaf_jax/evaluation/statistics/summary.py",
        "values.value[finite], values.drawing[finite], rng",
        "values.value[finite], rng",
        "intervals are too narrow: regions count as drawings",
    ),
    Mutation(
        "ragaf_jax/planning/hlo.py",
        "times_ = times * trip_count(program, instruction)",
        "times_ = times",
        "plans count the bytes and collectives of a loop once",
    ),
    Mutation(
        "ragaf_jax/planning/hlo.py",
        'if name.startswith("all-reduce-scatter")',
        'if name.startswith("reduce-scatter")',
        "plans of TPUs call a reduce-scatter an all-reduce",
    ),
    Mutation(
        "ragaf_jax/planning/roofline.py",
        "return max(self.arithmetic or 0.0, self.memory)",
        "return min(self.arithmetic or 0.0, self.memory)",
        "plans promise a rate that the device cannot reach",
    ),
    Mutation(
        "ragaf_jax/sampling/loaded_stages.py",
        "made.on_mesh(self._mesh)",
        "made",
        "sampling on several TPUs ends in an error of the compiler",
    ),
    Mutation(
        "ragaf_jax/runtime/flops.py",
        "jax.sharding.use_abstract_mesh(AbstractMesh((), ())), ",
        "",
        "a step's FLOPs cannot be counted on a mesh",
    ),
    Mutation(
        "ragaf_jax/runtime/gpu_memory.py",
        "for name in (*_FRACTIONS, *_OTHERS)):",
        "for name in _OTHERS):",
        "a user's own share of a GPU is overwritten",
    ),
    Mutation(
        "ragaf_jax/runtime/targets.py",
        "whole = name in known or",
        "whole =",
        "rtx4090 counts as 4090 cards",
    ),
    Mutation(
        "ragaf_jax/batch.py",
        "return _rows([rows[i] for i in order])",
        "return _rows(rows)",
        "images of several sizes get each other's scores",
    ),
    Mutation(
        "ragaf_jax/losses/validation.py",
        "in by_size(examples) if len(indices) > 1]",
        "in by_size(examples)]",
        "an image alone of its size counts as if its own conditions were another's",
    ),
    Mutation(
        "ragaf_jax/planning/plan.py",
        "if each.account.peak_bytes > other.account.peak_bytes:",
        "if each.account.peak_bytes < other.account.peak_bytes:",
        "a plan of buckets fits although its largest step does not",
    ),
)
