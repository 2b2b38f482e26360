"""AVM, AVSBench's audio-visual mapping loss, as pure functions.

Shape legend: F frames, C channels, h x w pixels of a level, K classes or 1 logit.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def soft_mask(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """What AVSBench's MS3 model is judged on: the sigmoid of the averaged logit.

    Args:
        logits: (F, 1, H, W).
        size: (h, w).

    Returns:
        float (F, 1, h, w) in [0, 1], with gradient.
    """
    return F.adaptive_avg_pool2d(logits, size).sigmoid()


def hard_mask(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """What AVSBench's AVSS model is judged on: 1 where the best class is not background, without gradient.

    Args:
        logits: (F, K, H, W), class 0 is background.
        size: (h, w).

    Returns:
        float (F, 1, h, w).
    """
    return (F.adaptive_avg_pool2d(logits, size).argmax(1, keepdim=True) > 0).to(logits.dtype)


def masked_vectors(features: Tensor, masks: Tensor, over_mask: bool = False) -> Tensor:
    """Mean of the masked features.

    Args:
        features: (F, C, h, w).
        masks: (F, 1, h, w).
        over_mask: divide by the mask's area; AVSBench's code divides by h w, so small masks give small vectors.

    Returns:
        (F, C).
    """
    total = (features * masks).sum((2, 3))
    area = masks.sum((2, 3)).clamp(min=1) if over_mask else features[0, 0].numel()
    return total / area


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
        visual: masked vectors (F, C), F at least 2.
        audio: (F, A), compared by Euclidean distance.

    Returns:
        float (F,), not negative.
    """
    distances = torch.cdist(audio.float(), audio.float()).fill_diagonal_(torch.inf)
    return audio_visual_mapping_loss(visual, visual[distances.argmin(1)])
