"""Smooth form of TransAVS's inference rule, eqs. (14) and (15), over all queries, to learn from.

Shape legend: F frames, N queries, K classes, h x w the predicted masks.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

LEAST_POWER = 1e-34  # less counts as 0 beside the largest, 1: what is computed with it would be subnormal, and slow


def smooth_max_log_probs(pred_logits: Tensor, pred_masks: Tensor, sharpness: float) -> tuple[Tensor, Tensor]:
    """Compute log S_c(x, y), S_c = (sum_i (p_i(c) m_i(x, y)) ^ g) ^ (1 / g): a smooth maximum over the queries.

    With g = ``sharpness`` growing, comparing S_c becomes the argmax of eq. (14); with g = 1 it is a plain sum.

    Args:
        pred_logits: (F, N, K).
        pred_masks: logits (F, N, h, w).
        sharpness: g.

    Returns:
        log S, float (F, K, h, w), and the masks m that it is of, (F, N, h, w), without a gradient.
    """
    log_classes = pred_logits.log_softmax(-1)
    log_probs, masks = _SmoothMaxLogProbs.apply(log_classes, pred_masks.flatten(2), sharpness)
    size = pred_masks.shape[2:]
    return log_probs.unflatten(2, size), masks.unflatten(2, size)


class _SmoothMaxLogProbs(torch.autograd.Function):
    """Keeps the mask logits and their powers for the backward pass, and passes few times over what is as large."""

    @staticmethod
    def forward(ctx: Any, log_classes: Tensor, logits: Tensor, sharpness: float) -> tuple[Tensor, Tensor]:
        """(F, N, K) log probabilities and mask logits (F, N, x) -> (F, K, x) and masks (F, N, x)."""
        tiny = torch.finfo(logits.dtype).tiny
        masks = logits.sigmoid()
        peak = masks.amax(1, keepdim=True).clamp_(min=tiny)
        classes_peak = log_classes.amax(1, keepdim=True)
        scale = 1 / peak
        # Where all masks are 0 they are all alike, and as large as the largest.
        mask_powers = torch.addcmul(tiny * scale, masks, scale)
        mask_powers = F.threshold(mask_powers, LEAST_POWER ** (1 / sharpness), 0.0, inplace=True).pow_(sharpness)
        class_powers = F.threshold(((log_classes - classes_peak) * sharpness).exp_(), LEAST_POWER, 0.0)
        sums = torch.einsum("fnk,fnx->fkx", class_powers, mask_powers).clamp_(min=tiny)
        ctx.save_for_backward(class_powers, logits, mask_powers, sums)
        ctx.mark_non_differentiable(masks)
        ctx.set_materialize_grads(False)  # else the masks get one of zeros
        return sums.log() / sharpness + classes_peak.transpose(1, 2) + peak.log(), masks

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: None) -> tuple[Tensor, Tensor, None]:
        class_powers, logits, mask_powers, sums = ctx.saved_tensors
        # Where no query has a say left, none is to blame.
        share = torch.where(sums > torch.finfo(sums.dtype).tiny, grad / sums, 0)
        grad_classes = class_powers * torch.einsum("fnx,fkx->fnk", mask_powers, share)
        grad_masks = torch.einsum("fnk,fkx->fnx", class_powers, share).mul_(mask_powers)
        # Times 1 - m, the derivative of log m by its logit.
        return grad_classes, grad_masks.addcmul_(grad_masks, logits.sigmoid(), value=-1), None
