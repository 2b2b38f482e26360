"""TransAVS's inference rule, eqs. (14) and (15), as probabilities.

Shape legend: F frames, N queries, K classes, h x w the predicted masks.
"""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

LOG_OF_NOTHING = -1e4  # of a class that no query stands for; finite, so that it can be interpolated


def semantic_inference(pred_logits: Tensor, pred_masks: Tensor, size: Sequence[int]) -> Tensor:
    """Turn the queries' classes and masks into class probabilities of pixels (TransAVS eqs. (14) and (15)).

    Each query stands for its most probable class c_i. What counts for class c at a pixel is the greatest p_i(c_i)
    m_i(x, y) of the queries of that class, divided by the sum over the classes; so the argmax over classes is the class
    of the winning query, and with K = 2 a pixel is sounding exactly where its probability exceeds 0.5.

    Queries are reduced to classes at the masks' own size, and K maps instead of N are upsampled, as logarithms, which
    is what training does with its log probabilities.

    Args:
        pred_logits: (F, N, K).
        pred_masks: logits (F, N, h, w).
        size: (H, W) to upsample to.

    Returns:
        float (F, K, H, W) in [0, 1], summing to 1 over K.
    """
    log_confidence, classes = pred_logits.float().log_softmax(-1).max(-1)
    log_votes = log_confidence[..., None, None] + F.logsigmoid(pred_masks.float())
    best = log_votes.new_full((log_votes.shape[0], pred_logits.shape[-1], *log_votes.shape[2:]), LOG_OF_NOTHING)
    best = best.scatter_reduce(1, classes[..., None, None].expand_as(log_votes), log_votes, "amax")
    return F.interpolate(best, size=tuple(size), mode="bilinear", align_corners=False).softmax(1)
