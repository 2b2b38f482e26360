"""Weights by name: a file, a folder of ``save_pretrained``, a repository of Hugging Face's hub, an address."""

import re
from pathlib import Path
from typing import Any

from detectron2.utils.file_io import PathHandler, PathManager
from huggingface_hub import snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from transavs.utils.errors import AVSInputError, one_line
from transavs.utils.weight_files import ABOUT_FILE, CONFIG_FILE, SHARED_WEIGHTS

PREFIX = "hf://"
REPOSITORY = re.compile(rf"(?:{PREFIX})?([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)


def find_pretrained(name: str | Path, revision: str | None = None) -> Path:
    """Find the weights of a shared model, and beside them what else ``save_pretrained`` writes.

    Args:
        name: of a folder on disk or else, as "owner/name", of a repository of the hub, which is fetched once. It may
            begin with "hf://" and end with "@" and a revision.
        revision: branch, tag or commit of a repository; by default its main branch.

    Raises:
        AVSInputError: there is no such folder or repository, it holds no weights, or the hub cannot be reached.
    """
    if Path(name).is_dir():
        return _weights_in(Path(name), name)
    parts = REPOSITORY.fullmatch(str(name))
    if parts is None:
        raise AVSInputError(f"there is no folder {name}: name one that is, or a repository of the hub as owner/name")
    repository, revision = parts[1], revision or parts[2]
    try:
        files = [SHARED_WEIGHTS, CONFIG_FILE, ABOUT_FILE]
        folder = snapshot_download(repository, revision=revision, allow_patterns=files, library_name="transavs")
    except RevisionNotFoundError as error:
        raise AVSInputError(f"{repository} has no revision {revision!r} on the hub: name another") from error
    except RepositoryNotFoundError as error:
        raise AVSInputError(
            f"{repository} is no folder here and no repository of the hub that you may read: correct the name, or log "
            "in with hf auth login"
        ) from error
    except Exception as error:  # no network, a name that the hub refuses, a full disk: each raises something else
        raise AVSInputError(
            f"{repository} cannot be fetched from the hub ({one_line(error)}): check the network, or name a folder"
        ) from error
    return _weights_in(Path(folder), name)


def _weights_in(folder: Path, name: str | Path) -> Path:
    weights = folder / SHARED_WEIGHTS
    if not weights.is_file():
        raise AVSInputError(f"{name} holds no {SHARED_WEIGHTS}: name what AVSPredictor.save_pretrained has written")
    return weights


def local_weights(path: str | Path) -> Path:
    """Find the file of weights that a path, a folder, a ``hf://`` name or an ``https://`` address stands for.

    Raises:
        AVSInputError: it cannot be fetched, or the folder holds none; a file that is missing is told when it is read.
    """
    if Path(path).is_dir():
        return find_pretrained(path)
    try:
        return Path(PathManager.get_local_path(str(path)))
    except AVSInputError:
        raise
    except Exception as error:  # no network, no such page, a full disk: each raises something else
        raise AVSInputError(
            f"{path} cannot be fetched ({one_line(error)}): check the address, or name a file"
        ) from error


class HubHandler(PathHandler):
    """detectron2's way to the hub: ``hf://owner/name[@revision]`` stands for the weights in that repository."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return str(find_pretrained(path))


PathManager.register_handler(HubHandler())
