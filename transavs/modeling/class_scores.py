"""TransAVS's inference rule, eqs. (14) and (15), as scores; and the same at full size without N masks of full size.

Shape legend: F frames, N queries, K classes, h x w the predicted masks, s the factor that they are enlarged by.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from transavs.precision import without_autocast

RELATIVE_TIE = 1e-5  # a query that can exceed another by less than this share is not looked at
PAIRS_AT_ONCE = 1 << 15  # queries in cells, which bounds memory


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

    Only queries that can win a pixel are enlarged, each only where it can: see :func:`best_votes`.

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
    with without_autocast(pred_masks.device):
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

    The pixels between four neighbouring values of a mask form a cell. The query that is best in a cell's middle gives
    its votes first; then those of the others that may exceed them follow, see :func:`may_exceed`.

    Args:
        confidence: p, (M,).
        masks: logits (M, h, w).
        factor: s, even.

    Returns:
        (s h, s w).
    """
    padded = F.pad(masks[None], (1, 1, 1, 1), mode="replicate")[0]
    height, width = (side - 1 for side in padded.shape[1:])
    corners = [padded[:, row : row + height, column : column + width] for row in (0, 1) for column in (0, 1)]
    middle = (corners[0] + corners[1]).add_(corners[2]).add_(corners[3]).div_(4)
    first = middle.sigmoid_().mul_(confidence[:, None, None]).max(0).indices  # (h + 1, w + 1)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    its = torch.stack([corner[first, rows, columns] for corner in corners])
    weights = corner_weights(factor).to(masks)
    votes = confidence[first].view(-1, 1) * (its.flatten(1).T @ weights).sigmoid_()  # (cells, s * s)
    queries, cells = may_exceed(corners, confidence, its, confidence[first])
    offsets = torch.tensor([0, 1, width + 1, width + 2])  # of a cell's corners in a flat padded mask
    for some, where in zip(queries.split(PAIRS_AT_ONCE), cells.split(PAIRS_AT_ONCE), strict=True):
        places = some * padded[0].numel() + where // width * (width + 1) + where % width
        theirs = (padded.take(places[:, None] + offsets) @ weights).sigmoid_().mul_(confidence[some, None])
        votes.scatter_reduce_(0, where[:, None].expand_as(theirs), theirs, "amax")
    pixels = votes.view(height, width, factor, factor).permute(0, 2, 1, 3).reshape(factor * height, factor * width)
    margin = factor // 2
    return pixels[margin:-margin, margin:-margin]


def may_exceed(
    corners: Sequence[Tensor], confidence: Tensor, its: Tensor, its_confidence: Tensor
) -> tuple[Tensor, Tensor]:
    """Which queries' votes p sigmoid(l) may exceed those of one query of each cell at any of the cell's pixels.

    The excess d = l - l' over that query's l' is bilinear too, so at most what it is at a corner. And sigmoid(l' + d) /
    sigmoid(l') grows with d; with l' it falls where d > 0 and grows where d < 0, so it is greatest at an end of l'.

    Args:
        corners: logits at the four corners of the cells, (M, rows, columns) each.
        confidence: p, (M,).
        its: l' at the corners, (4, rows, columns).
        its_confidence: p', (rows, columns).

    Returns:
        int64 (pairs,) each: the queries, and the cells, row by row. Where sigmoid(l') is 0 all queries are there.
    """
    excess = corners[0] - its[0]
    for corner, reference in zip(corners[1:], its[1:], strict=True):
        torch.maximum(excess, corner - reference, out=excess)
    low, high = its.amin(0), its.amax(0)
    bar = its_confidence * (1 + RELATIVE_TIE)
    # Few lie above anywhere. They pass here, and are looked at one by one.
    passed = (excess + high).sigmoid_().mul_(confidence[:, None, None]) >= bar * high.sigmoid()
    pairs = passed.logical_or_(excess > 0).flatten().nonzero()[:, 0]
    queries = pairs.div(low.numel(), rounding_mode="floor")
    cells = pairs - low.numel() * queries
    above = excess.flatten()[pairs]
    best = (low.flatten()[cells] + above).sigmoid_().mul_(confidence[queries])
    kept = (above <= 0).logical_or_(best >= (bar * low.sigmoid()).flatten()[cells])
    return queries[kept], cells[kept]


def corner_weights(factor: int) -> Tensor:
    """Weights of a cell's four corners, row by row, at its s x s pixels: (4, s * s)."""
    along = (torch.arange(factor) + 0.5) / factor
    pairs = torch.stack([1 - along, along])  # (2, s)
    return torch.einsum("ai,bj->abij", pairs, pairs).reshape(4, factor * factor)
