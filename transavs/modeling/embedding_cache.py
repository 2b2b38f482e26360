"""Embeddings of a frozen audio backbone on disk: a file for each clip and each state of the backbone."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from transavs.cache import TensorCache
from transavs.errors import AVSInputError

Clip = Mapping[str, Any]
Compute = Callable[[Sequence[Clip]], list[Tensor]]


def build_embedding_cache(cfg: CfgNode) -> "EmbeddingCache | None":
    """The cache of ``MODEL.AUDIO_BACKBONE.EMBEDDING_CACHE``, None where it is "".

    Raises:
        AVSInputError: the audio backbone is trained, or the folder cannot be made.
    """
    settings = cfg.MODEL.AUDIO_BACKBONE
    if not settings.EMBEDDING_CACHE:
        return None
    if not settings.FREEZE:
        raise AVSInputError(
            "MODEL.AUDIO_BACKBONE.EMBEDDING_CACHE keeps what a frozen audio backbone gives and FREEZE is False: set "
            "MODEL.AUDIO_BACKBONE.FREEZE to True, or EMBEDDING_CACHE to ''"
        )
    return EmbeddingCache(TensorCache(settings.EMBEDDING_CACHE, "MODEL.AUDIO_BACKBONE.EMBEDDING_CACHE"))


class EmbeddingCache:
    """Looks up the embeddings of clips and has those computed that are missing.

    They are found again by the bytes of the clip's log-mel examples, the backbone's weights and structure, the kind of
    device and the precision of autocast. Weights may be loaded, moved or changed at any time: each call compares where
    they lie in memory and torch's count of the writes to them, and reads them anew where either differs. Writes through
    ``Tensor.data`` are the one thing that torch does not count.
    """

    def __init__(self, files: TensorCache):
        self._files = files
        self._seen: list[tuple[str, Tensor, int]] = []  # holds the memory, which can be given to nothing else so
        self._digest = b""

    def look_up(
        self, clips: Sequence[Clip], backbone: nn.Module, device: torch.device, compute: Compute
    ) -> list[Tensor]:
        """
        Args:
            clips: with ``log_mel``, float (T, 1, 96, 64), of any T. Those with a ``noise_seed`` are computed and not
                kept: noise that is drawn in training does not come again.
            backbone: whose embeddings they are, frozen.
            device: where the embeddings shall be.
            compute: some of the clips -> the embedding of each.

        Returns:
            (T, C) of each clip, without gradient.
        """
        state = self._state_of(backbone, device)
        keys = [_key(clip["log_mel"], state) if clip.get("noise_seed") is None else "" for clip in clips]
        found = [self._files.read(key) if key else None for key in keys]
        missing = [index for index, tensors in enumerate(found) if tensors is None]
        computed = compute([clips[index] for index in missing]) if missing else []
        for index, embedding in zip(missing, computed, strict=True):
            found[index] = {"embedding": embedding}
            if keys[index]:
                self._files.write(keys[index], {"embedding": embedding.cpu()})
        return [tensors["embedding"].to(device) for tensors in found if tensors is not None]

    def _state_of(self, backbone: nn.Module, device: torch.device) -> bytes:
        """All that the embedding depends on beside the log-mel examples."""
        tensors = [*backbone.named_parameters(), *backbone.named_buffers()]
        seen = [(name, tensor.detach(), _writes(tensor)) for name, tensor in tensors]
        if not self._digest or not _same(seen, self._seen):
            self._seen, self._digest = seen, _weights_digest(tensors)
        autocast = torch.is_autocast_enabled(device.type)
        precision = torch.get_autocast_dtype(device.type) if autocast else None
        # The structure tells strides, paddings and the like, which no weight does.
        return self._digest + f"{type(backbone).__qualname__} {backbone} {device.type} {precision}".encode()


def _key(log_mel: Tensor, state: bytes) -> str:
    digest = hashlib.blake2b(state, digest_size=16)
    digest.update(_described("log_mel", log_mel))
    digest.update(_content(log_mel))
    return digest.hexdigest()


def _writes(tensor: Tensor) -> int:
    """How often a tensor has been written to; -1 where torch does not count it."""
    return -1 if tensor.is_inference() else tensor._version


def _same(seen: list[tuple[str, Tensor, int]], before: list[tuple[str, Tensor, int]]) -> bool:
    """Whether nothing has been written to any of the tensors in between, and each is the one that it was."""
    return len(seen) == len(before) and all(
        writes == old_writes >= 0
        and now.data_ptr() == old.data_ptr()
        and _described(name, now) == _described(old_name, old)
        for (name, now, writes), (old_name, old, old_writes) in zip(seen, before, strict=True)
    )


def _weights_digest(tensors: Sequence[tuple[str, Tensor]]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in tensors:
        digest.update(_described(name, tensor))
        digest.update(_content(tensor))
    return digest.digest()


def _described(name: str, tensor: Tensor) -> bytes:
    return f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode()


def _content(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
