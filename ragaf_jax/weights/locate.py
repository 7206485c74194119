"""Locates weights: a local folder or file, or a Hugging Face repository."""

import os
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from ragaf_jax.errors import UserError, notify
from ragaf_jax.weights.stores import PICKLES, pickle_refusal

# The JSON files that describe a folder in diffusers' layout and its networks.
DESCRIPTIONS = (
    "model_index.json",
    "config.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "text_encoder_2/config.json",
    "scheduler/scheduler_config.json",
)

# Tried in this order if no variant is given.
VARIANTS = ("", "fp16", "non_ema")
FLAX_FILES = {
    "diffusion_pytorch_model": "diffusion_flax_model.msgpack",
    "model": "flax_model.msgpack",
}

TIMEOUT = 10  # seconds, for the hub's answer

# "owner/repository", or with another "/" a folder or file in it.
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(/[\w./-]+)?")

# Names of all files of a repository → those to download.
Choose = Callable[[Collection[str]], Sequence[str]]
# (folder with a repository's descriptions, names of all its files); raises UserError for a
# repository of another kind.
Check = Callable[[Path, Collection[str]], object]


def locate(where: str, choose: Choose, check: Check | None = None) -> Path:
    """The local path of `where`; the chosen files of a hub id are downloaded.

    Args:
      where: a folder, a file, or "owner/repository" with, after another "/", a folder or a
        `.safetensors` file in it.
      choose: selects the files to download from a repository's folder.
      check: applied to a repository's folder after downloading only its descriptions.

    Raises:
      UserError: it is neither local nor on the hub, or `check` refuses it.
    """
    path = Path(where).expanduser()
    if where and path.exists():
        return path
    if not HUB_ID.fullmatch(where):
        raise UserError(
            f"There is no folder or file {where!r}, and it is no hub id such as "
            "stable-diffusion-v1-5/stable-diffusion-v1-5; give a path or a hub id."
        )
    repository, inside = _repository(where)
    try:
        files = huggingface_hub.HfApi().model_info(repository, timeout=TIMEOUT).siblings or ()
        names = [file.rfilename for file in files]
        if check is not None and not inside.endswith(".safetensors"):
            _check_descriptions(repository, names, inside, check)
        chosen = _chosen(names, inside, choose)
        folder = Path(huggingface_hub.snapshot_download(repository, allow_patterns=chosen))
    except UserError:
        raise
    except Exception as error:  # HTTP libraries raise many kinds without a network
        folder = _downloaded(repository, where, error)
    if not (folder / inside).exists():
        raise UserError(f"There is no {where} on the hub, or it has no supported file.")
    return folder / inside


def locate_here(where: str) -> Path | None:
    """As `locate`, without downloads: None if files are missing on this machine."""
    path = Path(where).expanduser()
    if where and path.exists():
        return path
    if not HUB_ID.fullmatch(where):
        return None
    repository, inside = _repository(where)
    folder = _in_cache(repository)
    return folder / inside if folder and (folder / inside).exists() else None


def _repository(where: str) -> tuple[str, str]:
    """A hub id's "owner/repository", and the path inside it or ""."""
    owner, name, *inner = where.split("/", 2)
    return f"{owner}/{name}", inner[0].strip("/") if inner else ""


def _in_cache(repository: str) -> Path | None:
    """The downloaded files of a repository, without contacting the hub."""
    download = huggingface_hub.snapshot_download
    try:
        # Without patterns this would require all files, and only some were downloaded.
        return Path(download(repository, allow_patterns=[], local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _downloaded(repository: str, where: str, error: Exception) -> Path:
    """The downloaded files of a repository that cannot be reached."""
    folder = _in_cache(repository)
    if folder is None:
        reason = " ".join([line for line in str(error).splitlines() if line][:2])
        raise UserError(
            f"{where} is no local folder or file and cannot be downloaded from the hub "
            f"({type(error).__name__}: {reason}); check the name and the network, or download it "
            "and give its path."
        ) from None
    notify(
        f"The hub cannot be reached ({type(error).__name__}); the downloaded files of {repository} "
        "are used."
    )
    return folder


def descriptions(names: Collection[str]) -> list[str]:
    """The JSON files that describe a folder, among the relative names of its files."""
    return [name for name in names if name in DESCRIPTIONS]


def _check_descriptions(repository: str, names: Collection[str], inside: str, check: Check) -> None:
    """Downloads the JSON files that describe a repository's folder, if it has any, for `check`."""
    below = _below(names, inside)
    if descriptions(below):
        paths = _chosen(names, inside, descriptions)
        folder = Path(huggingface_hub.snapshot_download(repository, allow_patterns=paths))
        check(folder / inside, below)


def _below(names: Collection[str], inside: str) -> list[str]:
    """The files in a repository's folder `inside`, relative to it."""
    prefix = f"{inside}/" if inside else ""
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def _chosen(names: Collection[str], inside: str, choose: Choose) -> list[str]:
    if inside.endswith(".safetensors"):
        # PEFT may save its settings beside the tensors.
        return [inside, f"{inside.rpartition('/')[0]}/adapter_config.json".lstrip("/")]
    return [f"{inside}/{name}".lstrip("/") for name in choose(_below(names, inside))]


def choose_weights(
    names: Collection[str], folder: str, stem: str, variant: str, source: str
) -> list[str]:
    """The file of a network's weights in a folder in diffusers' layout, or its index and shards.

    Args:
      names: of all files, relative to the root.
      folder: of the network, such as "unet"; "" for the root.
      stem: "diffusion_pytorch_model", or "model" for a text encoder.
      variant: "fp16", "non_ema" …, preferred if this network has it; then the plain file, then
        the first variant.
      source: the root, for messages.

    Raises:
      UserError: there is no supported file.
    """
    here = [name for name in names if name.rpartition("/")[0] == folder]
    found = {name.rpartition("/")[2]: name for name in here}
    for tried in (variant, *VARIANTS) if variant else VARIANTS:
        infix = f".{tried}" if tried else ""
        if (single := f"{stem}{infix}.safetensors") in found:
            return [found[single]]
        indices = (f"{stem}.safetensors{infix}.index.json", f"{stem}.safetensors.index{infix}.json")
        for index in indices:
            if index in found:
                shard = re.compile(rf"{stem}{re.escape(infix)}-\d+-of-\d+\.safetensors")
                return [found[index], *(found[n] for n in sorted(found) if shard.fullmatch(n))]
    if FLAX_FILES[stem] in found:
        return [found[FLAX_FILES[stem]]]
    pickles = [name for name in sorted(found) if name.endswith(PICKLES)]
    if pickles and not any(name.endswith(".safetensors") for name in found):
        raise UserError(pickle_refusal(Path(source) / found[pickles[0]]))
    raise UserError(
        f"{Path(source) / folder} holds {_listed(sorted(found))}, expected "
        f"{stem}.safetensors or {FLAX_FILES[stem]}; give a folder in diffusers' layout."
    )


def _listed(names: Sequence[str]) -> str:
    rest = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(names[:6]) + rest or "no files"


def check_variant(names: Collection[str], variant: str, source: str) -> None:
    """Refuses a variant without files; raises UserError."""
    if variant and not any(f".{variant}" in name for name in names):
        raise UserError(
            f"{source} has no file of the variant {variant!r}; choose another one, or none."
        )


def files_below(folder: Path) -> list[str]:
    """The names of all files in a folder, relative to it; symbolic links are followed."""
    return [
        (Path(root) / name).relative_to(folder).as_posix()
        for root, _, names in os.walk(folder, followlinks=True)
        for name in names
    ]
