"""The losses of TransAVS section 2.3 as pure functions.

Shape legend: F frames, N queries, d channels of a query, K classes, H x W pixels. Each function gives one value per
frame, (F,), so that the caller decides how frames are weighed. All are meant for float32, see
:class:`transavs.modeling.transavs.criterion.AVSCriterion`.
"""

from collections.abc import Sequence

import torch
from detectron2.utils import comm
from torch import Tensor
from torch.nn import functional as F


def pair_normalizer(selected: Tensor) -> Tensor:
    """2 / (n (n + 1)) of eqs. (9) and (11), n = number selected; 0 where n = 0.

    The paper divides by n (n + 1) / 2 although n queries have n (n - 1) / 2 pairs; it is kept as printed.

    Args:
        selected: bool (F, N).

    Returns:
        float (F,).
    """
    n = selected.sum(-1).to(torch.float32)
    return torch.where(n > 0, 2 / (n * (n + 1)).clamp(min=1), torch.zeros_like(n))


def audio_query_distance_loss(queries: Tensor, selected: Tensor, max_distance: float, floor: float) -> Tensor:
    """AQDL, TransAVS eqs. (9) and (10): queries that predict sounding objects should not lie close together.

    Args:
        queries: h(q), (F, N, d).
        selected: bool (F, N), the members of S_1.
        max_distance: d_0, the squared distance from which a pair costs nothing.
        floor: added to each squared distance, so that coinciding queries stay finite and close ones are still pushed
            apart.

    Returns:
        float (F,), not negative.
    """
    # From differences: products of long vectors cancel to distances that are wrong, and below 0, for close pairs.
    distances = torch.cdist(queries, queries, compute_mode="donot_use_mm_for_euclid_dist").square()
    pairs = (selected[:, :, None] & selected[:, None, :]).triu(diagonal=1) & (distances < max_distance)
    cost = torch.where(pairs, 1 / (distances + floor), torch.zeros_like(distances))
    return pair_normalizer(selected) * cost.sum((1, 2))


def audio_query_mask_loss(masks: Tensor, selected: Tensor) -> Tensor:
    """AQML, TransAVS eqs. (11) and (12): masks of sounding queries should not overlap.

    The sum over pairs of Bin(m_i) m_j + m_i Bin(m_j) is, pixel by pixel, that of m_i times how many other masks are
    over 0.5, so neither N x N nor N x N x H x W values are formed. Bin has no gradient: those numbers are constants.

    Args:
        masks: m, (F, N, H, W) in [0, 1].
        selected: bool (F, N), the members of S_2.

    Returns:
        float (F,), not negative.
    """
    chosen = selected[..., None, None].to(masks.dtype)
    binary = (masks.detach() > 0.5) * chosen
    others = (binary.sum(1, keepdim=True) * chosen).sub_(binary)
    overlap = torch.einsum("fnhw,fnhw->f", masks, others) / masks.shape[2:].numel()
    return pair_normalizer(selected) * overlap / 2


def focal_loss(log_probabilities: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
    """Focal loss (Lin et al. 2017) over K classes, per element.

    Args:
        log_probabilities: (F, K, ...).
        labels: int64 (F, ...), class 0 is background.
        alpha: weight of the classes that are not background, 1 - alpha that of the background; negative: both 1.
        gamma: exponent that lessens the loss of elements that are right already.

    Returns:
        float (F, ...).
    """
    log_p = log_probabilities.gather(1, labels[:, None]).squeeze(1)
    loss = (1 - log_p.exp()) ** gamma * -log_p
    return loss if alpha < 0 else loss * torch.where(labels > 0, alpha, 1 - alpha)


def dice_loss(probabilities: Tensor, one_hot: Tensor) -> Tensor:
    """Dice loss (Milletari et al. 2016) of the classes present in a frame, background left out.

    Args:
        probabilities: (F, K, H, W).
        one_hot: (F, K, H, W), 1 at the pixel's class.

    Returns:
        float (F,): mean over the present classes; 0 for a frame of background alone.
    """
    predicted, target = probabilities[:, 1:].flatten(2), one_hot[:, 1:].flatten(2)
    overlap = (predicted * target).sum(-1)
    loss = 1 - (2 * overlap + 1) / (predicted.sum(-1) + target.sum(-1) + 1)
    present = (target.sum(-1) > 0).to(loss.dtype)
    return (loss * present).sum(-1) / present.sum(-1).clamp(min=1)


def query_mask_costs(pred_masks: Tensor, regions: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Focal and Dice loss of every query's own mask with every region, without F x N x R x H x W values.

    Args:
        pred_masks: logits (F, N, H, W).
        regions: (F, R, H, W) in [0, 1].
        gamma: of the focal loss, here over two classes, inside and outside.

    Returns:
        focal and Dice loss, (F, N, R) each.
    """
    logits, regions = pred_masks.flatten(2), regions.flatten(2)
    masks = logits.sigmoid()
    inside = (1 - masks) ** gamma * -F.logsigmoid(logits)
    outside = masks**gamma * -F.logsigmoid(-logits)
    focal = torch.einsum("fnx,frx->fnr", inside - outside, regions) + outside.sum(-1, keepdim=True)
    overlap = torch.einsum("fnx,frx->fnr", masks, regions)
    dice = 1 - (2 * overlap + 1) / (masks.sum(-1)[..., None] + regions.sum(-1)[:, None] + 1)
    return focal / logits.shape[-1], dice


def one_hot_masks(masks: Tensor, num_classes: int) -> Tensor:
    """int64 (F, H, W) class ids -> float (F, K, H, W)."""
    return F.one_hot(masks, num_classes).permute(0, 3, 1, 2).float()


def class_shares(masks: Tensor, num_classes: int, size: Sequence[int]) -> Tensor:
    """Share of each class in each cell of a coarser grid: adaptive average pooling of one-hot masks.

    Pixels are counted per cell, so memory does not grow by K times the pixels.

    Args:
        masks: int64 class ids (F, H, W); ids from ``num_classes`` on belong to no class.
        num_classes: K.
        size: (h, w) of the grid.

    Returns:
        float (F, K, h, w) in [0, 1].
    """
    rows, row_weights = pooling_windows(masks.shape[1], size[0], masks.device)
    columns, column_weights = pooling_windows(masks.shape[2], size[1], masks.device)
    pixels = masks[:, rows][..., columns].permute(0, 2, 4, 1, 3)  # (F, k, l, h, w)
    weights = row_weights.T[:, None, :, None] * column_weights.T[:, None, :]
    weights = torch.where(pixels < num_classes, weights, 0.0).flatten(1, 2)
    shares = weights.new_zeros(len(masks), num_classes, *size)
    return shares.scatter_add_(1, pixels.clamp(max=num_classes - 1).flatten(1, 2), weights)


def pooling_windows(length: int, cells: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pixels that adaptive average pooling of ``length`` pixels takes into each of ``cells``, and their weights.

    Returns:
        int64 (cells, k) indices and float (cells, k) weights, 0 where a window has fewer than k pixels.
    """
    starts = [cell * length // cells for cell in range(cells)]
    lengths = [-(-(cell + 1) * length // cells) - start for cell, start in enumerate(starts)]
    offsets = range(max(lengths))
    indices = torch.tensor([[min(start + offset, length - 1) for offset in offsets] for start in starts])
    weights = torch.tensor([[1 / count if offset < count else 0.0 for offset in offsets] for count in lengths])
    return indices.to(device), weights.to(device)


def rank_loss_weight(amount: int | Tensor, device: torch.device) -> Tensor | float:
    """Weight of this rank's mean loss that makes the average over ranks the mean over all ranks' frames or pixels.

    Ranks may differ in how many labeled frames, and pixels that count, their clips have.

    Args:
        amount: of frames or pixels that this rank's mean is over.
        device: of the result.
    """
    ranks = comm.get_world_size()
    if ranks == 1:
        return 1.0
    own = torch.as_tensor(amount, dtype=torch.float32, device=device)
    total = own.clone()
    torch.distributed.all_reduce(total)
    return own * ranks / total.clamp(min=1)
