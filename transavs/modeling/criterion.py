"""The query-wise, Hungarian-free criterion of TransAVS, eq. (13).

Shape legend: F labelled frames, N queries, K classes, h x w the predicted masks, H x W the ground truth.

No query is matched to an object. The segmentation losses act on what the queries say together, a smooth form of the
inference rule of eqs. (14) and (15), and each query's class follows from the ground truth under its own mask.
"""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn
from torch.nn import functional as F

from transavs.modeling.losses import (
    audio_query_distance_loss,
    audio_query_mask_loss,
    dice_loss,
    focal_loss,
    one_hot_masks,
)


def joint_log_scores(pred_logits: Tensor, pred_masks: Tensor, sharpness: float) -> Tensor:
    """log S_c(x, y), S_c = (sum_i (p_i(c) m_i(x, y)) ^ g) ^ (1 / g): a smooth maximum over the queries.

    With g = ``sharpness`` growing, comparing S_c becomes the argmax of eq. (14); with g = 1 it is a plain sum.

    Args:
        pred_logits: (F, N, K).
        pred_masks: logits (F, N, h, w).
        sharpness: g.

    Returns:
        float (F, K, h, w).
    """
    log_classes = sharpness * pred_logits.float().log_softmax(-1)
    log_masks = sharpness * F.logsigmoid(pred_masks.float())
    # Largest terms at 1, so that powers of small numbers do not all end at 0.
    class_peak = log_classes.detach().amax(1, keepdim=True)
    mask_peak = log_masks.detach().amax(1, keepdim=True)
    powers = torch.einsum("fnk,fnhw->fkhw", (log_classes - class_peak).exp(), (log_masks - mask_peak).exp())
    log_powers = powers.clamp(min=torch.finfo(powers.dtype).tiny).log() + class_peak[:, 0, :, None, None] + mask_peak
    return log_powers / sharpness


class AVSCriterion(nn.Module):
    """Weighted losses of one batch.

    ``delta_1`` and ``delta_2``, the confidence thresholds of S_1 and S_2, are plain attributes that
    :class:`transavs.engine.hooks.ThresholdSchedule` sets by eq. (18).
    """

    @configurable
    def __init__(
        self,
        *,
        hidden_dim: int,
        num_classes: int,
        weights: dict[str, float],
        delta_1: float,
        delta_2: float,
        aqdl_distance: float,
        aqdl_floor: float,
        focal_alpha: float,
        focal_gamma: float,
        sharpness: float,
    ):
        """
        Args:
            hidden_dim: d, channels of an audio query.
            num_classes: K, background included.
            weights: of ``loss_aqdl``, ``loss_aqml``, ``loss_ce``, ``loss_mask`` and ``loss_dice``.
            delta_1, delta_2: first values of the thresholds.
            aqdl_distance, aqdl_floor: see :func:`audio_query_distance_loss`.
            focal_alpha, focal_gamma: see :func:`focal_loss`.
            sharpness: see :func:`joint_log_scores`.
        """
        super().__init__()
        self.projection = nn.Linear(hidden_dim, hidden_dim)  # h of eq. (10)
        self.num_classes = num_classes
        self.weights = weights
        self.delta_1, self.delta_2 = delta_1, delta_2
        self.aqdl_distance, self.aqdl_floor = aqdl_distance, aqdl_floor
        self.focal_alpha, self.focal_gamma = focal_alpha, focal_gamma
        self.sharpness = sharpness

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        settings = cfg.MODEL.TRANSAVS
        return {
            "hidden_dim": settings.HIDDEN_DIM,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "weights": {
                "loss_aqdl": settings.AQDL_WEIGHT,
                "loss_aqml": settings.AQML_WEIGHT,
                "loss_ce": settings.CLASS_WEIGHT,
                "loss_mask": settings.MASK_WEIGHT,
                "loss_dice": settings.DICE_WEIGHT,
            },
            "delta_1": settings.DELTA_1[0],
            "delta_2": settings.DELTA_2[0],
            "aqdl_distance": settings.AQDL_DISTANCE,
            "aqdl_floor": settings.AQDL_FLOOR,
            "focal_alpha": settings.FOCAL_ALPHA,
            "focal_gamma": settings.FOCAL_GAMMA,
            "sharpness": settings.SHARPNESS,
        }

    def forward(self, outputs: dict[str, Any], masks: Tensor) -> dict[str, Tensor]:
        """
        Args:
            outputs: of the query decoder, labelled frames only.
            masks: int64 (F, H, W) class ids.

        Returns:
            weighted scalar losses; those of earlier decoder layers end in ``_0``, ``_1``, ...
        """
        target = one_hot_masks(masks, self.num_classes)
        shares = F.interpolate(target, size=outputs["pred_masks"].shape[-2:], mode="area")
        losses = self.segmentation_losses(outputs, masks, target, shares) | self.self_supervised_losses(outputs)
        for number, layer in enumerate(outputs.get("aux_outputs", [])):
            named = self.segmentation_losses(layer, masks, target, shares)
            losses |= {f"{name}_{number}": value for name, value in named.items()}
        return {name: self.weights[name.rstrip("_0123456789")] * value for name, value in losses.items()}

    def segmentation_losses(
        self, outputs: dict[str, Any], masks: Tensor, target: Tensor, shares: Tensor
    ) -> dict[str, Tensor]:
        """``loss_ce``, ``loss_mask`` and ``loss_dice`` of one layer's predictions.

        Args:
            outputs: with ``pred_logits`` and ``pred_masks``.
            masks: class ids (F, H, W).
            target: the same, one-hot (F, K, H, W).
            shares: of each class in each cell of the predicted masks, (F, K, h, w).
        """
        pred_logits, pred_masks = outputs["pred_logits"], outputs["pred_masks"]
        scores = joint_log_scores(pred_logits, pred_masks, self.sharpness)
        scores = F.interpolate(scores, size=masks.shape[-2:], mode="bilinear", align_corners=False)
        log_shares = scores.log_softmax(1)
        labels = self.query_labels(pred_masks, shares)
        query_log_p = pred_logits.float().log_softmax(-1).transpose(1, 2)
        return {
            "loss_ce": focal_loss(query_log_p, labels, self.focal_alpha, self.focal_gamma).mean(),
            "loss_mask": focal_loss(log_shares, masks, self.focal_alpha, self.focal_gamma).mean(),
            "loss_dice": dice_loss(log_shares.exp(), target).mean(),
        }

    @torch.no_grad()
    def query_labels(self, pred_masks: Tensor, shares: Tensor) -> Tensor:
        """Class on which most of a query's soft mask lies: int64 (F, N). For K = 2, sounding if more than half does."""
        return torch.einsum("fnhw,fkhw->fnk", pred_masks.float().sigmoid(), shares).argmax(-1)

    def self_supervised_losses(self, outputs: dict[str, Any]) -> dict[str, Tensor]:
        """``loss_aqdl`` and ``loss_aqml`` on the queries more confident than delta_1 and delta_2."""
        confidence = 1 - outputs["pred_logits"].float().softmax(-1)[..., 0]  # of sounding, whatever the class
        distance = audio_query_distance_loss(
            self.projection(outputs["audio_queries"]), confidence > self.delta_1, self.aqdl_distance, self.aqdl_floor
        )
        overlap = audio_query_mask_loss(outputs["pred_masks"].sigmoid(), confidence > self.delta_2)
        return {"loss_aqdl": distance.mean(), "loss_aqml": overlap.mean()}
