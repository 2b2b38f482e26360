"""TransAVS's inference rule, eqs. (14) and (15), as scores; and the same at full size without N masks of full size.

Shape legend: F frames, N queries, K classes, h x w the predicted masks, s the factor that they are enlarged by.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

RELATIVE_TIE = 1e-5  # a rival that can exceed the winner by less than this share is not looked at
HARD_CELLS = 512  # that are worked on at once, which bounds memory


def class_scores(pred_logits: Tensor, pred_masks: Tensor) -> Tensor:
    """Inference by TransAVS eqs. (14) and (15), as scores.

    Each query stands for its most probable class c_i. The score of class c at a pixel is the best p_i(c_i) m_i(x, y)
    of the queries of that class, divided by the sum over the classes; so the argmax over classes is the class of the
    winning query, and with K = 2 a pixel is sounding exactly where its score exceeds 0.5.

    Args:
        pred_logits: (F, N, K).
        pred_masks: logits (F, N, h, w).

    Returns:
        float (F, K, h, w) in [0, 1], summing to 1 over K.
    """
    confidence, classes = pred_logits.float().softmax(-1).max(-1)
    votes = confidence[..., None, None] * pred_masks.float().sigmoid()
    scores = votes.new_zeros(votes.shape[0], pred_logits.shape[-1], *votes.shape[2:])
    if torch.compiler.is_compiling():  # a graph cannot depend on which classes occur
        scores = scores.scatter_reduce(1, classes[..., None, None].expand_as(votes), votes, "amax")
    else:
        for number in classes.unique().tolist():  # few of many classes are any query's best
            scores[:, number] = votes.masked_fill((classes != number)[..., None, None], 0).amax(1)
    return normalised(scores)


def enlarged_class_scores(pred_logits: Tensor, pred_masks: Tensor, factor: int) -> Tensor:
    """:func:`class_scores` of masks enlarged bilinearly by an even ``factor``, to a relative RELATIVE_TIE.

    Between four neighbouring values of a mask its interpolation lies between the least and the greatest of them. So in
    most such cells one query wins every pixel for sure, and only its mask is enlarged there; in the others all that
    may win are.

    Args:
        pred_logits: (F, N, K).
        pred_masks: logits (F, N, h, w).
        factor: s.

    Returns:
        float (F, K, s h, s w) in [0, 1], summing to 1 over K.
    """
    confidence, classes = pred_logits.float().softmax(-1).max(-1)
    height, width = (factor * side for side in pred_masks.shape[-2:])
    scores = confidence.new_zeros(len(confidence), pred_logits.shape[-1], height, width)
    for frame, its_classes in enumerate(classes):
        for number in its_classes.unique().tolist():
            queries = (its_classes == number).nonzero()[:, 0]
            masks = pred_masks[frame, queries].float()
            scores[frame, number] = best_votes(confidence[frame, queries], masks, factor)
    return normalised(scores)


def normalised(scores: Tensor) -> Tensor:
    """(F, K, ...) not negative -> summing to 1 over K; 0 where all are."""
    return scores / scores.sum(1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)


def best_votes(confidence: Tensor, masks: Tensor, factor: int) -> Tensor:
    """The greatest p_i m_i at each pixel of masks enlarged bilinearly.

    Args:
        confidence: p, (M,).
        masks: logits (M, h, w).
        factor: s, even.

    Returns:
        (s h, s w).
    """
    padded = F.pad(masks[None], (1, 1, 1, 1), mode="replicate")[0]
    corners = [padded[:, row : row - 1 or None, column : column - 1 or None] for row in (0, 1) for column in (0, 1)]
    cells = corners[0].shape[1:]
    weights = corner_weights(factor).to(masks)
    flat = [corner.flatten(1) for corner in corners]
    low, high = (
        reduce(reduce(flat[0], flat[1]), reduce(flat[2], flat[3])) for reduce in (torch.minimum, torch.maximum)
    )
    least, winner = (confidence[:, None] * low.sigmoid_()).max(0)
    greatest = confidence[:, None] * high.sigmoid_()
    votes = weights @ torch.stack([corner.gather(0, winner[None])[0] for corner in flat])
    votes = confidence[winner] * votes.sigmoid_()
    may_win = greatest.scatter(0, winner[None], 0) > least * (1 + RELATIVE_TIE)
    hard = may_win.any(0).nonzero()[:, 0]
    if len(hard):
        rivals = may_win.any(1).nonzero()[:, 0]
        theirs = torch.stack([corner[rivals[:, None], hard] for corner in flat], 1)  # (rivals, 4, cells)
        best = [
            (weights @ some).sigmoid_().mul_(confidence[rivals, None, None]).amax(0)
            for some in theirs.split(HARD_CELLS, 2)
        ]
        votes[:, hard] = torch.maximum(votes[:, hard], torch.cat(best, 1))
    pixels = votes.view(factor, factor, *cells).permute(2, 0, 3, 1).reshape(factor * cells[0], factor * cells[1])
    margin = factor // 2
    return pixels[margin:-margin, margin:-margin]


def corner_weights(factor: int) -> Tensor:
    """Weights of a cell's four corners, row by row, at its s x s pixels: (s * s, 4)."""
    along = (torch.arange(factor) + 0.5) / factor
    pairs = torch.stack([1 - along, along])  # (2, s)
    return torch.einsum("ai,bj->ijab", pairs, pairs).reshape(factor * factor, 4)
