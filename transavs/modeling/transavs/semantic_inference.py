"""TransAVS's inference rule, eqs. (14) and (15), as probabilities.

Shape legend: F frames, N queries, K classes, h x w the predicted masks.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

NO_VOTE = -1.0  # where there is one it is not negative
LOG_OF_NOTHING = -1e4  # of a class that no query stands for; finite, so that it can be interpolated


def semantic_inference(pred_logits: Tensor, pred_masks: Tensor, size: Sequence[int]) -> Tensor:
    """Turn the queries' classes and masks into class probabilities of pixels (TransAVS eqs. (14) and (15)).

    Each query stands for its most probable class c_i. What counts for class c at a pixel is the greatest p_i(c_i)
    m_i(x, y) of the queries of that class, divided by the sum over the classes; so the argmax over classes is the class
    of the winning query, and with K = 2 a pixel is sounding exactly where its probability exceeds 0.5.

    Queries are reduced to classes at the masks' own size, and K maps instead of N are upsampled, as logarithms, which
    is what training does with its log probabilities. As there, votes below 1e-38 count as that much.

    Args:
        pred_logits: (F, N, K).
        pred_masks: logits (F, N, h, w).
        size: (H, W) to upsample to.

    Returns:
        float (F, K, H, W) in [0, 1], summing to 1 over K.
    """
    confidence, classes = pred_logits.float().softmax(-1).max(-1)
    # Logarithms are taken of K maps and not of N, which costs a tenth.
    votes = confidence[..., None, None] * pred_masks.float().sigmoid()
    best = votes.new_full((votes.shape[0], pred_logits.shape[-1], *votes.shape[2:]), NO_VOTE)
    best = best.scatter_reduce(1, classes[..., None, None].expand_as(votes), votes, "amax")
    log_best = torch.where(best == NO_VOTE, LOG_OF_NOTHING, best.clamp(min=torch.finfo(best.dtype).tiny).log())
    return F.interpolate(log_best, size=tuple(size), mode="bilinear", align_corners=False).softmax(1)
