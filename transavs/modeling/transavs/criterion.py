"""The query-wise, Hungarian-free criterion of TransAVS, eq. (13).

Shape legend: F labeled frames, N queries, K classes, h x w the predicted masks, H x W the ground truth.

No query is matched to an object. The segmentation losses act on what the queries say together, a smooth form of the
inference rule of eqs. (14) and (15); what each query is asked for by itself, a class and perhaps a mask of its own,
follows from one of the rules in :mod:`transavs.modeling.transavs.query_targets`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn
from torch.nn import functional as F

from transavs.modeling.activation_checkpoint import recomputed
from transavs.modeling.transavs.alignment import AudioVisualAlignment
from transavs.modeling.transavs.losses import (
    audio_query_distance_loss,
    audio_query_mask_loss,
    class_shares,
    dice_loss,
    focal_loss,
    one_hot_masks,
    query_mask_costs,
    rank_loss_weight,
)
from transavs.modeling.transavs.query_targets import QUERY_TARGETS, QueryTargets, TargetInputs
from transavs.modeling.transavs.smooth_max import smooth_max_log_probs
from transavs.utils.errors import AVSInputError
from transavs.utils.precision import without_autocast


@dataclass(frozen=True)
class GroundTruth:
    """Ground truth that every layer's predictions are compared with."""

    masks: Tensor  # int64 class ids (F, H', W') of the pixels that the joint losses look at
    counts: Tensor  # float (F, H', W'), 0 for pixels that are to be ignored, else 1
    one_hot: Tensor  # the classes, (F, K, H', W'); none of an ignored pixel
    grid: Tensor | None  # (1, H', W', 2), places of these pixels as grid_sample takes them; None: all pixels
    shares: Tensor  # of each class in each cell of the predicted masks, (F, K, h, w)
    objects: Tensor  # of each object, (F, O, h, w)
    object_classes: Tensor  # int64 (F, O), 0 where there is no such object


class SegmentationLosses(nn.Module):
    """Segmentation losses of one decoder layer: joint ones, and those of single queries."""

    def __init__(
        self,
        *,
        query_target: str,
        queries_per_object: int,
        focal_alpha: float,
        focal_gamma: float,
        sharpness: float,
    ):
        """
        Args:
            query_target: key of :data:`transavs.modeling.transavs.query_targets.QUERY_TARGETS`.
            queries_per_object: of the rules that give an object several queries.
            focal_alpha, focal_gamma: see :func:`focal_loss`.
            sharpness: see :func:`smooth_max_log_probs`.

        Raises:
            AVSInputError: there is no such rule.
        """
        super().__init__()
        if query_target not in QUERY_TARGETS:
            raise AVSInputError(
                f"MODEL.TRANSAVS.QUERY_TARGET is '{query_target}': choose from {', '.join(QUERY_TARGETS)}"
            )
        self.query_target = QUERY_TARGETS[query_target]
        self.queries_per_object = queries_per_object
        self.focal_alpha, self.focal_gamma = focal_alpha, focal_gamma
        self.sharpness = sharpness

    def forward(self, pred_logits: Tensor, pred_masks: Tensor, truth: GroundTruth) -> dict[str, Tensor]:
        """
        Args:
            pred_logits: (F, N, K).
            pred_masks: logits (F, N, h, w).
            truth: of the same frames.

        Returns:
            ``loss_ce``, ``loss_mask``, ``loss_dice`` and, where the rule chooses regions for queries,
            ``loss_query_mask`` and ``loss_query_dice``.
        """
        log_probs, masks = smooth_max_log_probs(pred_logits, pred_masks, self.sharpness)
        joint = recomputed(self.joint_losses, log_probs, truth.masks, truth.counts, truth.one_hot, truth.grid)
        targets = self.query_targets(pred_logits, masks, truth)
        query_log_p = pred_logits.log_softmax(-1).transpose(1, 2)
        losses = {
            "loss_ce": focal_loss(query_log_p, targets.labels, self.focal_alpha, self.focal_gamma).mean(),
            "loss_mask": joint[0],
            "loss_dice": joint[1],
        }
        if targets.regions is not None and targets.chosen is not None:
            chosen = targets.chosen.float()
            number = chosen.sum((1, 2)).clamp(min=1)
            if targets.most_chosen is not None and targets.most_chosen < chosen.shape[1]:
                # A fixed number of queries, those chosen among them: the others cost nothing, and time.
                some = chosen.amax(2).topk(targets.most_chosen).indices
                frames = torch.arange(len(some), device=some.device)[:, None]
                pred_masks, chosen = pred_masks[frames, some], chosen[frames, some]
            costs = recomputed(query_mask_costs, pred_masks, targets.regions, self.focal_gamma)
            for name, cost in zip(("loss_query_mask", "loss_query_dice"), costs, strict=True):
                losses[name] = ((cost * chosen).sum((1, 2)) / number).mean()
        return losses

    def joint_losses(
        self, log_probs: Tensor, masks: Tensor, counts: Tensor, one_hot: Tensor, grid: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Focal and Dice loss of joint log probabilities (F, K, h, w) at full size; see :class:`GroundTruth`."""
        if grid is None:
            log_probs = F.interpolate(log_probs, size=masks.shape[-2:], mode="bilinear", align_corners=False)
        else:  # the same values, at some pixels alone
            grid = grid.expand(len(log_probs), -1, -1, -1)
            log_probs = F.grid_sample(log_probs, grid, padding_mode="border", align_corners=False)
        log_shares = log_probs.log_softmax(1)
        focal = focal_loss(log_shares, masks, self.focal_alpha, self.focal_gamma) * counts
        return focal.sum() / counts.sum().clamp(min=1), dice_loss(log_shares.exp() * counts[:, None], one_hot).mean()

    @torch.no_grad()
    def query_targets(self, pred_logits: Tensor, masks: Tensor, truth: GroundTruth) -> QueryTargets:
        """Choose the target of each query, of masks m in [0, 1], by the rule."""
        inputs = TargetInputs(
            probabilities=pred_logits.softmax(-1),
            masks=masks,
            shares=truth.shares,
            objects=truth.objects,
            object_classes=truth.object_classes,
        )
        return self.query_target(inputs, self.queries_per_object)


class AVSCriterion(nn.Module):
    """Weighted losses of one batch.

    ``aqdl_threshold`` and ``aqml_threshold``, the confidence thresholds of S_1 and S_2, are plain attributes that
    :class:`transavs.engine.hooks.ThresholdSchedule` sets by eq. (18).
    """

    @configurable
    def __init__(
        self,
        *,
        segmentation: SegmentationLosses,
        hidden_dim: int,
        num_classes: int,
        max_objects: int,
        loss_stride: int,
        weights: dict[str, float],
        aqdl_threshold: float,
        aqml_threshold: float,
        aqdl_distance: float,
        aqdl_floor: float,
        alignment: AudioVisualAlignment | None = None,
    ):
        """
        Args:
            segmentation: the losses of each decoder layer.
            hidden_dim: d, channels of an audio query.
            num_classes: K, background included.
            max_objects: O, more than a frame holds.
            loss_stride: the joint losses look at every n-th row and column of the ground truth, from a random offset
                in each step.
            weights: of ``loss_aqdl``, ``loss_aqml``, ``loss_ce``, ``loss_mask``, ``loss_dice``, ``loss_query_mask``,
                ``loss_query_dice`` and ``loss_alignment``.
            aqdl_threshold, aqml_threshold: first values of the thresholds.
            aqdl_distance, aqdl_floor: see :func:`audio_query_distance_loss`.
            alignment: gives ``loss_alignment``; None leaves it out.
        """
        super().__init__()
        self.segmentation = segmentation
        self.alignment = alignment
        self.projection = nn.Linear(hidden_dim, hidden_dim)  # h of eq. (10)
        self.num_classes, self.max_objects, self.loss_stride = num_classes, max_objects, loss_stride
        self.weights = weights
        self.aqdl_threshold, self.aqml_threshold = aqdl_threshold, aqml_threshold
        self.aqdl_distance, self.aqdl_floor = aqdl_distance, aqdl_floor

    @classmethod
    def from_config(cls, cfg: CfgNode, audio_dim: int) -> dict[str, Any]:
        settings = cfg.MODEL.TRANSAVS
        alignment = AudioVisualAlignment(
            visual_dim=cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM,
            audio_dim=audio_dim,
            embed_dim=settings.HIDDEN_DIM,
            temperature=settings.ALIGNMENT_TEMPERATURE,
        )
        return {
            "segmentation": SegmentationLosses(
                query_target=settings.QUERY_TARGET,
                queries_per_object=settings.QUERIES_PER_OBJECT,
                focal_alpha=settings.FOCAL_ALPHA,
                focal_gamma=settings.FOCAL_GAMMA,
                sharpness=settings.SMOOTH_MAX_EXPONENT,
            ),
            "hidden_dim": settings.HIDDEN_DIM,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "max_objects": cfg.INPUT.MAX_OBJECTS,
            "loss_stride": settings.LOSS_STRIDE,
            "weights": {
                "loss_aqdl": settings.AQDL_WEIGHT,
                "loss_aqml": settings.AQML_WEIGHT,
                "loss_ce": settings.CLASS_WEIGHT,
                "loss_mask": settings.MASK_WEIGHT,
                "loss_dice": settings.DICE_WEIGHT,
                "loss_query_mask": settings.QUERY_MASK_WEIGHT,
                "loss_query_dice": settings.QUERY_DICE_WEIGHT,
                "loss_alignment": settings.ALIGNMENT_WEIGHT,
            },
            "aqdl_threshold": settings.AQDL_THRESHOLD[0],
            "aqml_threshold": settings.AQML_THRESHOLD[0],
            "aqdl_distance": settings.AQDL_DISTANCE,
            "aqdl_floor": settings.AQDL_FLOOR,
            "alignment": alignment if settings.ALIGNMENT_WEIGHT else None,
        }

    def forward(self, outputs: dict[str, Any], masks: Tensor, objects: Tensor) -> dict[str, Tensor]:
        """
        Args:
            outputs: of :meth:`transavs.modeling.transavs.meta_arch.TransAVS.predict`, labeled frames only.
            masks: int64 (F, H, W) class ids; pixels of other ids than the K classes' are ignored.
            objects: int64 (F, H, W), 0 = none, else the number of the frame's object, at most ``max_objects``.

        Returns:
            weighted scalar losses; those of earlier decoder layers end in ``_0``, ``_1``, ...
        """
        # Sums over pixels and small probabilities are beyond half precision, and autocast would put them there.
        with without_autocast(masks.device):
            return self._weighted_losses(_in_float32(outputs), masks, objects)

    def _weighted_losses(self, outputs: dict[str, Any], masks: Tensor, objects: Tensor) -> dict[str, Tensor]:
        truth = self.ground_truth(masks, objects, outputs["pred_masks"].shape[-2:])
        losses = self.self_supervised_losses(outputs)
        losses |= self.segmentation(outputs["pred_logits"], outputs["pred_masks"], truth)
        for number, layer in enumerate(outputs.get("aux_outputs", [])):
            named = self.segmentation(layer["pred_logits"], layer["pred_masks"], truth)
            losses |= {f"{name}_{number}": value for name, value in named.items()}
        of_frames, of_pixels = (rank_loss_weight(n, masks.device) for n in (len(masks), truth.counts.sum()))
        losses = {
            name: (of_pixels if name.startswith("loss_mask") else of_frames) * value for name, value in losses.items()
        }
        if self.alignment is not None:  # of all ranks together, and as heavy beside many layers' losses as beside few
            alignment = self.alignment(outputs["mask_features"], outputs["audio"], truth.objects)
            losses["loss_alignment"] = (1 + len(outputs.get("aux_outputs", []))) * alignment
        return {name: self.weights[name.rstrip("_0123456789")] * value for name, value in losses.items()}

    def ground_truth(self, masks: Tensor, objects: Tensor, size: Sequence[int]) -> GroundTruth:
        """Class ids and object numbers (F, H, W) -> what predicted masks of ``size`` are compared with."""
        of_objects = torch.zeros(len(masks), self.max_objects + 1, dtype=torch.int64, device=masks.device)
        classes = torch.where(masks < self.num_classes, masks, 0)
        of_objects.scatter_reduce_(1, objects.flatten(1), classes.flatten(1), "amax")
        pixels, grid = self.sample_pixels(masks.shape[1], masks.shape[2])
        sampled = masks[pixels]
        counts = (sampled < self.num_classes).float()
        sampled = torch.where(counts > 0, sampled, 0)
        return GroundTruth(
            masks=sampled,
            counts=counts,
            one_hot=one_hot_masks(sampled, self.num_classes) * counts[:, None],
            grid=None if grid is None else grid.to(masks.device),
            shares=class_shares(masks, self.num_classes, size),
            objects=class_shares(objects, self.max_objects + 1, size)[:, 1:],
            object_classes=of_objects[:, 1:],
        )

    def sample_pixels(self, height: int, width: int) -> tuple[tuple[slice, ...], Tensor | None]:
        """Choose every ``loss_stride``-th row and column, from a random offset.

        Returns:
            the index of these pixels in (F, H, W), and their places in [-1, 1] as (1, H', W', 2), x before y; None for
            all pixels.
        """
        if self.loss_stride == 1:
            return (slice(None), slice(None), slice(None)), None
        # Any fixed offset would leave pixels that no loss ever sees.
        firsts = [int(torch.randint(min(self.loss_stride, side), ())) for side in (height, width)]
        rows, columns = (
            (torch.arange(first, side, self.loss_stride) + 0.5) / side * 2 - 1
            for first, side in zip(firsts, (height, width), strict=True)
        )
        grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)
        return (slice(None), *(slice(first, None, self.loss_stride) for first in firsts)), grid[None]

    def self_supervised_losses(self, outputs: dict[str, Any]) -> dict[str, Tensor]:
        """``loss_aqdl`` and ``loss_aqml`` on the queries more confident than aqdl_threshold and aqml_threshold."""
        confidence = 1 - outputs["pred_logits"].softmax(-1)[..., 0]  # of sounding, whatever the class
        distance = audio_query_distance_loss(
            self.projection(outputs["audio_queries"]),
            confidence > self.aqdl_threshold,
            self.aqdl_distance,
            self.aqdl_floor,
        )
        overlap = audio_query_mask_loss(outputs["pred_masks"].sigmoid(), confidence > self.aqml_threshold)
        return {"loss_aqdl": distance.mean(), "loss_aqml": overlap.mean()}


def _in_float32(outputs: Any) -> Any:
    """Tensors in any nesting of dicts and lists, as float32."""
    if isinstance(outputs, dict):
        return {name: _in_float32(value) for name, value in outputs.items()}
    return [_in_float32(value) for value in outputs] if isinstance(outputs, list) else outputs.float()
