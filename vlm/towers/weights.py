"""Weights of a tower: safetensors files read and compared with the model, and their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path

import torch
from torch import Tensor, nn


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    FileNotFoundError where there is no such file; ValueError for another format, pickled weights
    above all, and for a file that is cut or damaged.
    """
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{path}: only safetensors weights are read, because pickle files can run code: "
            f"convert it with safetensors.torch.save_file(torch.load('{path.name}', "
            f"weights_only=True), '{path.stem}.safetensors')."
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; weights are a local path or 'hub'.")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error}).") from error


def fetch_from_hub(repository: str, file: str, encoder: str) -> Path:
    """A file of a hub repository or of the hub's own cache; for a pickle file its safetensors twin.

    ValueError where the repository has no such file, OSError where it can't be reached.
    """
    stem, _, suffix = file.rpartition(".")
    file = f"{stem}.safetensors" if suffix in ("bin", "pt", "pth") else file
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    repository, _, revision = repository.partition("@")
    try:
        return Path(hf_hub_download(repository, file, revision=revision or None))
    except (LocalEntryNotFoundError, HfHubHTTPError) as error:
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            raise ValueError(
                f"{repository} has no {file}, and pickled weights are not read: take the weights "
                "of another publisher, or convert them and name the local file."
            ) from error
        raise OSError(
            f"{encoder}: {file} of {repository} can't be fetched ({type(error).__name__}); name a "
            "local safetensors file with --model.image-weights instead."
        ) from error


def fit_weights(
    module: nn.Module,
    given: Mapping[str, Tensor],
    path: Path,
    what: str,
    *,
    prefix: str = "",
    optional: tuple[str, ...] = (),
) -> None:
    """Load weights that must be exactly those of `module`, a part of the file under `prefix`.

    Keys that begin with one of `optional` may be missing, differ or be more. ValueError names the
    first keys that are missing, too many, or of another shape.
    """
    expected = module.state_dict()
    wanted = {k: x for k, x in expected.items() if not (optional and k.startswith(optional))}
    missing = [k for k in wanted if k not in given]
    if missing:
        raise ValueError(
            f"{path}: {len(missing)} of {len(wanted)} weights of {what} are missing, first "
            f"{_named(missing, prefix)}; the file has {sorted(given)[:3]} ...: is it for another "
            "model?"
        )
    more = [k for k in given if k not in expected and not (optional and k.startswith(optional))]
    if more:
        raise ValueError(
            f"{path}: {len(more)} weights that {what} does not have, first "
            f"{_named(more, prefix)}: is it for another model?"
        )
    differ = [k for k, x in wanted.items() if given[k].shape != x.shape]
    if differ:
        shapes = "; ".join(
            f"{prefix}{k} {list(given[k].shape)} in the file, {list(wanted[k].shape)} in the model"
            for k in differ[:3]
        )
        raise ValueError(f"{path}: {len(differ)} weights differ in shape from {what}: {shapes}.")
    module.load_state_dict({k: given[k] for k in wanted}, strict=False)


def _named(keys: list[str], prefix: str) -> list[str]:
    return [f"{prefix}{key}" for key in keys[:3]]


def weights_digest(module: nn.Module) -> str:
    """SHA-256 over names, types and bytes of a module's weights, whatever file they came from."""
    digest = hashlib.sha256()
    for name, weight in sorted(module.state_dict().items()):
        x = weight.detach().cpu().contiguous()
        digest.update(f"{name} {x.dtype} {list(x.shape)} ".encode())
        digest.update(x.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def unknown_name(library: str, name: str, known: Collection[str]) -> ValueError:
    """The error for a model that the library does not have, with the nearest names it has."""
    lower = {other.lower(): other for other in known}
    near = [lower[n] for n in get_close_matches(name.lower(), lower, n=3, cutoff=0.3)]
    return ValueError(
        f"{library} has no model {name!r}; the nearest names are {near}. {library}.list_models() "
        "lists all."
    )


def missing_package(library: str, encoder: str, extra: str) -> ImportError:
    """The error for a library that is not installed, with the line that installs it."""
    return ImportError(f"the encoder {encoder} needs {library}: pip install 'qsft-robot[{extra}]'")
