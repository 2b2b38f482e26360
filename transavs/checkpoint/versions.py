"""Versions of the code and the packages that a run was made with."""

import platform
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import transavs

PACKAGES = ("detectron2", "torch", "torchvision", "torchaudio", "timm", "numpy", "opencv-python-headless", "soundfile")
UNKNOWN = "unknown"


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Versions by name: transavs, its commit where it runs from a checkout, Python, and the packages it computes with.

    A commit that ends in "-dirty" is not the whole truth: files have been changed since.
    """
    commit = _commit(Path(__file__).parents[2])
    found = {"transavs": transavs.__version__} | ({"commit": commit} if commit else {})
    return found | {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def version_changes(before: Mapping[str, str]) -> list[str]:
    """List what differs from the versions that something was made with, as "name: then, now"."""
    now = versions()
    return [f"{name}: {version}, now {now.get(name, UNKNOWN)}" for name, version in before.items()
            if version != now.get(name, UNKNOWN)]  # fmt: skip


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return UNKNOWN


def _commit(checkout: Path) -> str:
    if not (checkout / ".git").exists():
        return ""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # no git, or a checkout that is not this user's
        return UNKNOWN
