"""AVM, AVSBench's audio-visual mapping loss: what a mask covers should match what is heard.

Shape legend: F frames, C channels, h x w pixels of a level, K classes or 1 logit.
"""

from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn import functional as F

from transavs.modeling.transavs.losses import rank_loss_weight
from transavs.utils.errors import AVSInputError


def soft_mask(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Score of "sounding" from the averaged logits: AVSBench's MS3 form, with gradient.

    Args:
        logits: (F, 1, H, W), or (F, K, H, W) with class 0 as background.
        size: (h, w).

    Returns:
        float (F, 1, h, w) in [0, 1].
    """
    pooled = F.adaptive_avg_pool2d(logits.float(), size)
    return pooled.sigmoid() if pooled.shape[1] == 1 else 1 - pooled.softmax(1)[:, :1]


def hard_mask(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Share of each cell's pixels that are decided for anything but background: AVSBench's AVSS form, no gradient.

    Arguments and shapes as of :func:`soft_mask`.
    """
    logits = logits.detach()
    sounding = logits > 0 if logits.shape[1] == 1 else logits.max(1, keepdim=True).indices > 0
    return F.adaptive_avg_pool2d(sounding.float(), size)


def masked_vectors(features: Tensor, masks: Tensor, over_image: bool) -> Tensor:
    """Mean of the masked features.

    Args:
        features: (F, C, h, w).
        masks: (F, 1, h, w).
        over_image: divide by h w, as AVSBench's code does, so that small masks give small vectors; else by the mask's
            area, at least one pixel.

    Returns:
        (F, C).
    """
    total = (features * masks).sum((2, 3))
    return total / (features[0, 0].numel() if over_image else masks.sum((2, 3)).clamp(min=1))


def audio_visual_mapping_loss(visual: Tensor, audio: Tensor) -> Tensor:
    """AVM-AV: KL(softmax(audio) || softmax(visual)) of each frame.

    Args:
        visual: masked vectors (F, C).
        audio: projected sound (F, C).

    Returns:
        float (F,), not negative.
    """
    return F.kl_div(visual.float().log_softmax(1), audio.float().softmax(1), reduction="none").sum(1)


def visual_visual_mapping_loss(visual: Tensor, audio: Tensor) -> Tensor:
    """AVM-VV: as :func:`audio_visual_mapping_loss`, towards the visual vector of the frame that sounds most alike.

    Args:
        visual: masked vectors (F, C); a single frame is its own neighbor and costs nothing.
        audio: (F, A), compared by Euclidean distance.

    Returns:
        float (F,), not negative.
    """
    distances = torch.cdist(audio.float(), audio.float()).fill_diagonal_(torch.inf)
    return audio_visual_mapping_loss(visual, visual[distances.argmin(1)])


AVM_FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "av": audio_visual_mapping_loss,
    "vv": visual_visual_mapping_loss,
}
AVM_MASKS: dict[str, Callable[[Tensor, tuple[int, int]], Tensor]] = {"soft": soft_mask, "hard": hard_mask}
AVM_REDUCTIONS = ("sum", "mean")


class AVMLoss(nn.Module):
    """AVM of one level, with the choices in which AVSBench's own forms differ."""

    @configurable
    def __init__(self, *, form: str, mask: str, reduction: str, over_image: bool, rectified: bool):
        """
        Args:
            form: key of :data:`AVM_FORMS`.
            mask: key of :data:`AVM_MASKS`.
            reduction: "sum" over the frames of all ranks, or their "mean".
            over_image: see :func:`masked_vectors`.
            rectified: look at features after a ReLU, as the in-place ReLU of AVSBench's decoder leaves them.

        Raises:
            AVSInputError: a choice that there is not.
        """
        super().__init__()
        choices = (("FORM", form, AVM_FORMS), ("MASK", mask, AVM_MASKS), ("REDUCTION", reduction, AVM_REDUCTIONS))
        for key, value, known in choices:
            if value not in known:
                raise AVSInputError(f"MODEL.TPAVI.AVM_{key} is '{value}': choose from {', '.join(known)}")
        self.mapping, self.mask = AVM_FORMS[form], AVM_MASKS[mask]
        self.reduction, self.over_image, self.rectified = reduction, over_image, rectified

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        settings = cfg.MODEL.TPAVI
        return {
            "form": settings.AVM_FORM,
            "mask": settings.AVM_MASK,
            "reduction": settings.AVM_REDUCTION,
            "over_image": settings.AVM_OVER_IMAGE,
            "rectified": settings.AVM_RECTIFIED,
        }

    def forward(self, logits: Tensor, features: Tensor, sounds: Tensor) -> Tensor:
        """Labeled frames of this rank: logits (F, K or 1, H, W), features (F, C, h, w), sounds (F, C) -> scalar.

        Averaged over the ranks, as gradients are, it is the loss of all their frames; but "vv" looks for neighbors
        among the frames of one rank.
        """
        if self.rectified:
            features = features.relu()
        masks = self.mask(logits, (features.shape[2], features.shape[3]))
        per_frame = self.mapping(masked_vectors(features, masks, self.over_image), sounds)
        if self.reduction == "sum":
            return per_frame.sum() * comm.get_world_size()
        return per_frame.mean() * rank_loss_weight(len(per_frame), per_frame.device)
