"""Test-time augmentation: the mean of what a model says of a clip at several sizes, and mirrored.

Shape legend: T frames of a clip, S x S the network's input, K classes, H x W a clip's own size.
"""

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from torch import Tensor, nn
from torch.nn import functional as F


class AVSWithTTA(nn.Module):
    """Takes and gives in evaluation what the model in it does, with probabilities averaged over augmentations.

    As detectron2's GeneralizedRCNNWithTTA, it scales what the network would see, not the files.
    """

    @configurable
    def __init__(self, model: nn.Module, *, sizes: Sequence[int], flip: bool):
        """
        Args:
            model: a :class:`transavs.modeling.meta_arch.AVSModel`, or one in DistributedDataParallel.
            sizes: S in pixels of each pass; none for the clips' own.
            flip: add a mirrored pass to each.
        """
        super().__init__()
        self.model = model
        self.sizes = sizes
        self.flip = flip

    @classmethod
    def from_config(cls, cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
        return {"model": model, "sizes": cfg.TEST.AUG.MIN_SIZES, "flip": cfg.TEST.AUG.FLIP}

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
        """
        Args:
            batched_inputs: clips, as the model takes them.

        Returns:
            per clip ``{"sem_seg": float (T, K, H, W) in [0, 1]}``.
        """
        passes = [(size, mirrored) for size in self.sizes or (0,) for mirrored in (False, True)[: 1 + self.flip]]
        sums: list[Tensor] = []
        for size, mirrored in passes:
            clips = [clip | {"images": _augmented(clip["images"], size, mirrored)} for clip in batched_inputs]
            found = [output["sem_seg"] for output in self.model(clips)]
            if mirrored:
                found = [sem_seg.flip(-1) for sem_seg in found]
            sums = [total + sem_seg for total, sem_seg in zip(sums, found, strict=True)] if sums else found
        return [{"sem_seg": total / len(passes)} for total in sums]


def _augmented(images: Tensor, size: int, mirrored: bool) -> Tensor:
    """Scale frames (T, 3, S, S) to ``size`` if it is neither 0 nor S, and mirror them."""
    if size not in (0, images.shape[-1]):
        images = F.interpolate(images.float(), size=(size, size), mode="bilinear", align_corners=False, antialias=True)
    return images.flip(-1) if mirrored else images
