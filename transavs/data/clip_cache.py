"""Decoded clips on disk: a file for each record, named by everything that its content depends on."""

import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL
import soundfile
import torch
import torchaudio
from detectron2.config import CfgNode

from transavs.data.front_ends import AudioFrontEnd
from transavs.utils.tensor_cache import TensorCache

# Raise the number when what the mapper keeps for the same sources and settings changes. What the libraries decode,
# resize and transform may change with each of their versions.
VERSIONS = [
    2,
    *(PIL.__version__, np.__version__, torch.__version__, torchaudio.__version__),
    *(soundfile.__version__, soundfile.__libsndfile_version__),
]


def build_clip_cache(cfg: CfgNode) -> TensorCache | None:
    """The cache of ``DATALOADER.CLIP_CACHE``, None where it is "".

    Raises:
        AVSInputError: the folder cannot be made.
    """
    folder = cfg.DATALOADER.CLIP_CACHE
    return TensorCache(folder, "DATALOADER.CLIP_CACHE") if folder else None


def clip_key(record: dict[str, Any], settings: Sequence[Any], front_end: AudioFrontEnd) -> str:
    """Name a clip in the cache by 32 hexadecimal digits.

    It changes with the path, size and modification time of every frame, mask and audio file that the record names, with
    a file's coming or going, with the record's mask encoding and noise seed, with the audio front-end, the versions of
    the libraries, and ``settings``.

    Args:
        record: of :mod:`transavs.data.avsbench`, perhaps with audio of another clip or made from a noise seed.
        settings: of the mapper, as JSON has them.
        front_end: that makes its examples.
    """
    known = {
        "frames": [_state(path) for path in record["file_names"]],
        "masks": [_state(path) for path in record["mask_file_names"]],
        "audio": [_state(record.get(name)) for name in ("audio_file", "log_mel_file")],
        "mask_encoding": record["mask_encoding"],
        "noise_seed": record.get("noise_seed"),
        "settings": list(settings),
        "front_end": front_end.cache_key(),
        "versions": VERSIONS,
    }
    return hashlib.blake2b(json.dumps(known).encode(), digest_size=16).hexdigest()


def _state(path: str | None) -> list[Any]:
    """The path, and size in bytes and modification time in nanoseconds of a file that is there."""
    if path is None:
        return []
    try:
        found = os.stat(path)
    except OSError:  # decoding says what is wrong with it
        return [os.path.abspath(path)]
    return [os.path.abspath(path), found.st_size, found.st_mtime_ns]
