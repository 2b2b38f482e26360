"""Smooth form of TransAVS's inference rule, eqs. (14) and (15), over all queries, to learn from.

Shape legend: F frames, N queries, K classes, h x w the predicted masks.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

LEAST_EXPONENT = -80.0  # exp() of less counts as 0 beside the largest term, 1; where subnormal it would be slow
LEAST_POWER = 1e-34


def smooth_max_log_probs(pred_logits: Tensor, pred_masks: Tensor, sharpness: float) -> Tensor:
    """Compute log S_c(x, y), S_c = (sum_i (p_i(c) m_i(x, y)) ^ g) ^ (1 / g): a smooth maximum over the queries.

    With g = ``sharpness`` growing, comparing S_c becomes the argmax of eq. (14); with g = 1 it is a plain sum.

    Args:
        pred_logits: (F, N, K).
        pred_masks: logits (F, N, h, w).
        sharpness: g.

    Returns:
        float (F, K, h, w).
    """
    log_classes = pred_logits.log_softmax(-1)
    log_probs: Tensor = _SmoothMaxLogProbs.apply(log_classes, pred_masks.flatten(2), sharpness)
    return log_probs.unflatten(2, pred_masks.shape[2:])


class _SmoothMaxLogProbs(torch.autograd.Function):
    """Keeps the logits alone for the backward pass: what is as large as they are is computed again."""

    @staticmethod
    def forward(ctx: Any, log_classes: Tensor, logits: Tensor, sharpness: float) -> Tensor:
        """(F, N, K) log probabilities and mask logits (F, N, x) -> (F, K, x)."""
        log_masks = logits.sigmoid()
        masks_peak = _log(log_masks.amax(1, keepdim=True))
        classes_peak = log_classes.amax(1, keepdim=True)
        mask_powers = _powers(_log(log_masks), masks_peak, sharpness)
        class_powers = _powers(log_classes.clone(), classes_peak, sharpness)
        sums = torch.einsum("fnk,fnx->fkx", class_powers, mask_powers)
        sums.clamp_(min=torch.finfo(sums.dtype).tiny)
        ctx.save_for_backward(class_powers, logits, masks_peak, sums)
        ctx.sharpness = sharpness
        return sums.log() / sharpness + classes_peak.transpose(1, 2) + masks_peak

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        class_powers, logits, masks_peak, sums = ctx.saved_tensors
        # Where no query has a say left, none is to blame.
        share = torch.where(sums > torch.finfo(sums.dtype).tiny, grad / sums, 0)
        outside = torch.sigmoid(-logits)  # the derivative of log m by its logit
        mask_powers = _powers(_log(logits.sigmoid()), masks_peak, ctx.sharpness)
        grad_classes = class_powers * torch.einsum("fnx,fkx->fnk", mask_powers, share)
        grad_masks = torch.einsum("fnk,fkx->fnx", class_powers, share)
        return grad_classes, grad_masks.mul_(mask_powers).mul_(outside), None


def _log(values: Tensor) -> Tensor:
    """Take logarithms in place, finite for 0."""
    return values.clamp_(min=torch.finfo(values.dtype).tiny).log_()


def _powers(log_values: Tensor, log_peak: Tensor, sharpness: float) -> Tensor:
    """(values / peak) ^ sharpness, in place, 0 where it is less than LEAST_POWER."""
    powers = log_values.sub_(log_peak).mul_(sharpness).clamp_(min=LEAST_EXPONENT).exp_()
    return F.threshold(powers, LEAST_POWER, 0.0, inplace=True)
