"""Embeddings of a frozen audio backbone on disk: a file for each clip and each state of the backbone."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from transavs.utils.errors import AVSInputError
from transavs.utils.tensor_cache import TensorCache

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

    They are found again by the bytes of the clip's examples, the backbone's weights and structure, the kind of
    device and the precision of autocast. The weights are read once, when they are first asked for, and again after
    :meth:`forget_backbone`: a frozen backbone does not change in between.
    """

    def __init__(self, files: TensorCache):
        self._files = files
        self._backbone_digest = b""

    def forget_backbone(self, *loaded: object) -> None:
        """Read the backbone's weights anew at the next look-up: a hook for when others have been loaded."""
        self._backbone_digest = b""

    def look_up(
        self, clips: Sequence[Clip], backbone: nn.Module, device: torch.device, compute: Compute
    ) -> list[Tensor]:
        """
        Args:
            clips: with ``log_mel``, float (T, ...), of any T. Those with a ``noise_seed`` are computed and not
                kept: noise that is drawn in training does not come again.
            backbone: whose embeddings they are, frozen.
            device: where the embeddings shall be.
            compute: some of the clips -> the embedding of each.

        Returns:
            (T, C) of each clip, without gradient.
        """
        self._backbone_digest = self._backbone_digest or _digest_of(backbone)
        autocast = torch.is_autocast_enabled(device.type)
        precision = torch.get_autocast_dtype(device.type) if autocast else None
        state = self._backbone_digest + f"{device.type} {precision}".encode()
        keys = [_key(clip["log_mel"], state) if clip.get("noise_seed") is None else "" for clip in clips]
        found = [self._files.read(key) if key else None for key in keys]
        missing = [index for index, tensors in enumerate(found) if tensors is None]
        computed = compute([clips[index] for index in missing]) if missing else []
        for index, embedding in zip(missing, computed, strict=True):
            found[index] = {"embedding": embedding}
            if keys[index]:
                self._files.write(keys[index], {"embedding": embedding.cpu()})
        return [tensors["embedding"].to(device) for tensors in found if tensors is not None]


def _digest_of(backbone: nn.Module) -> bytes:
    # The structure tells strides, paddings and the like, which no weight does.
    digest = hashlib.blake2b(f"{type(backbone).__qualname__} {backbone}".encode(), digest_size=16)
    for name, tensor in backbone.state_dict().items():
        _update(digest, name, tensor)
    return digest.digest()


def _key(log_mel: Tensor, state: bytes) -> str:
    digest = hashlib.blake2b(state, digest_size=16)
    _update(digest, "log_mel", log_mel)
    return digest.hexdigest()


def _update(digest: "hashlib.blake2b", name: str, tensor: Tensor) -> None:
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
