"""Assigns the tensors of an adapter's file to modules, and names those that fit none."""

import logging
import re
from collections.abc import Collection, Mapping

from ragaf_jax.errors import UserError
from ragaf_jax.weights.adapters.opening import AdapterFile
from ragaf_jax.weights.adapters.tensor_names import Module, modules_by_name, parsed
from ragaf_jax.weights.configs.kinds import LORA, SDXL, file_kind
from ragaf_jax.weights.stores import Safetensors

logger = logging.getLogger(__name__)

# Tensors of adapters that are not additions to a weight.
_OTHER_KINDS = re.compile(r"\.(oft_\w+|boft_\w+|scalar|reshape_weight)$")
# Whole tensors that PEFT and diffusers can save beside the matrices.
_WHOLE = re.compile(r"(\.|_)(bias|norm\w*\.weight|modules_to_save\..*)$")
# Modules of Stable Diffusion 1 and 2 that SDXL lacks: a fourth level, attention in the first.
_SD_MODULES = re.compile(
    r"(down|up)_blocks[._]3[._]|down_blocks[._]0[._]attentions[._]|input_blocks[._][12][._]1[._]"
    r"|(input|output)_blocks[._](9|1[01])[._]"
)
_SD = "of Stable Diffusion 1 or 2"
# Only SDXL's UNet has it.
_SDXL_LEAF = "unet/add_embedding/linear_1/kernel"
# A textual inversion in the file of a LoRA.
_BUNDLED = "bundle_emb."


def tensors_by_module(
    opened: AdapterFile, leaves: Mapping[str, tuple[int, ...]]
) -> dict[Module, dict[str, str]]:
    """The names of a file's tensors by module and part; see `tensor_names.parsed`.

    Raises:
      UserError: a tensor that belongs to no module, two of the same part, or no tensors.
    """
    store, known = opened.store, modules_by_name(leaves)
    found: dict[Module, dict[str, str]] = {}
    bundled = [name for name in store.shapes if name.startswith(_BUNDLED)]
    if bundled:
        logger.warning("%s holds the embedding %s, which is ignored", store.source, bundled[0])
    for name in store.shapes:
        if name in bundled:
            continue
        module, part = parsed(name)
        if not part or module not in known:
            raise not_read(name, store, leaves)
        names = found.setdefault(known[module], {})
        if part in names:
            raise UserError(
                f"{store.source} holds both {names[part]} and {name}, expected one of them; save "
                "each LoRA in a separate file."
            )
        names[part] = name
    if not found:
        raise UserError(f"{store.source} holds no tensors, expected a LoRA; download it again.")
    return found


def not_read(name: str, store: Safetensors, leaves: Collection[str]) -> UserError:
    """The error for a tensor that belongs to no adapter of a known module, which `leaves` show."""
    own = SDXL if _SDXL_LEAF in leaves else _SD
    kind, shown = file_kind(store.shapes) or (LORA, name)
    if kind == LORA and (modules := list(filter(_SD_MODULES.search, store.shapes))):
        kind, shown = _SD, modules[0]
    if kind not in (LORA, own):
        return UserError(
            f"{store.source} is {kind}, as its tensor {shown} shows, expected a LoRA {own}; give "
            "one of those."
        )
    if other := _OTHER_KINDS.search(name):
        return UserError(
            f"The tensor {name} in {store.source} belongs to an adapter with {other[1]}, expected "
            "LoRA, LoCon, LoHa, LoKr, DoRA or full updates; give one of those."
        )
    if _WHOLE.search(name):
        return UserError(
            f"The tensor {name} in {store.source} is a bias, a norm or a whole module, expected "
            "LoRA's two matrices per module; train or save the LoRA without biases, norms and "
            "modules_to_save."
        )
    return UserError(
        f"The tensor {name} in {store.source} belongs to no module of this model, expected a LoRA "
        "of Stable Diffusion's UNet or text encoder, of the same generation."
    )
