"""Checkpoints on the Hugging Face hub, through huggingface_hub: fetched once, kept in its cache, checked.

The only file that imports huggingface_hub.
"""

import hashlib
import importlib
import re
from pathlib import Path
from typing import Any

from ghn.adapters import MissingExtraError
from ghn.errors import CheckpointError

FOLDER = ("config.json", "model.safetensors")  # of a checkpoint of ours
FILES = (".safetensors", ".pt", ".pth")


def fetch(name: str) -> Path:
    """The folder, or the file, of a checkpoint by its name on the hub: 'owner/name', or 'owner/name/file'.

    Without a file, a repository of ours gives its folder, and one with a single checkpoint file that file. What has
    been fetched before is found without a network. Raises CheckpointError: no such name, several files to choose from,
    no network, or damaged; MissingExtraError where huggingface_hub is not installed.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+(/[\w./-]+)?", name):
        raise CheckpointError(f"'hf:{name}' is no name on the hub; give 'hf:owner/name' or 'hf:owner/name/file'")
    owner, repository, *file = name.split("/", 2)
    repo = f"{owner}/{repository}"
    if file:
        return _file(repo, file[0])
    found = _listed(repo)
    if set(FOLDER) <= set(found):
        for each in FOLDER:
            folder = _file(repo, each).parent
        return folder
    choices = [each for each in found if each.endswith(FILES)]
    if len(choices) != 1:
        said = ", ".join(f"hf:{repo}/{each}" for each in choices) or "nothing that is one"
        raise CheckpointError(f"hf:{repo} is not one checkpoint; it has {said}")
    return _file(repo, choices[0])


def _hub() -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise MissingExtraError("names on the hub need huggingface_hub: pip install 'ghn-predict[hub]'") from error


def _listed(repo: str) -> list[str]:
    """The repository's files; those in the cache where there is no network."""
    hub = _hub()
    try:
        return hub.list_repo_files(repo)
    except Exception as error:  # as many kinds as there are ways for a network to fail
        cached = [path for each in FOLDER if isinstance(path := hub.try_to_load_from_cache(repo, each), str)]
        if len(cached) == len(FOLDER):
            return list(FOLDER)
        raise _unreachable(repo, "", error) from error


def _file(repo: str, name: str) -> Path:
    hub = _hub()
    try:
        path = Path(hub.hf_hub_download(repo, name))
    except Exception as error:
        raise _unreachable(repo, name, error) from error
    expected = path.resolve().name  # the cache names what it holds by its checksum, where the hub keeps one
    if re.fullmatch(r"[0-9a-f]{64}", expected):
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                raise CheckpointError(f"{path} is damaged: its checksum is not the hub's; delete it to fetch it again")
    return path


def _unreachable(repo: str, name: str, error: Exception) -> CheckpointError:
    words = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    what = f"{repo} {name}".strip()
    return CheckpointError(
        f"hf:{what.replace(' ', '/')} is not in the cache and cannot be fetched ({words}). "
        f"Where there is a network, `hf download {what}` fetches it; bring the file and give its path instead"
    )
