"""Optimizer of a model, from config."""

import itertools
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn

FULL_MODEL = "full_model"
# Last parts of names: of TransAVS, and of the positions and extra tokens of Swin and other transformers, as in
# Mask2Former and timm.
NO_DECAY = (
    *("query_content", "query_positions", "level_embedding", "level_embed"),
    *("relative_position_bias_table", "absolute_pos_embed", "pos_embed", "pos_embed_window"),
    *("cls_token", "reg_token"),
)


class ClippedAdamW(torch.optim.AdamW):
    """AdamW that scales the gradient of the whole model to a largest norm before each step.

    detectron2's own clipping goes parameter by parameter.
    """

    def __init__(self, params: Any, max_norm: float, **options: Any):
        super().__init__(params, **options)
        self.max_norm = max_norm

    def step(self, closure: Any = None) -> Any:
        parameters = itertools.chain.from_iterable(group["params"] for group in self.param_groups)
        nn.utils.clip_grad_norm_(parameters, self.max_norm)
        return super().step(closure)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW with ``BACKBONE_MULTIPLIER`` on the visual backbone and no weight decay on norms and embeddings.

    A child may have ``learning_rate_factors()``, a factor by the name of each parameter, such as that of
    ``MODEL.TIMM.LAYER_DECAY``.
    ``SOLVER.CLIP_GRADIENTS.CLIP_TYPE`` may be "full_model" beside detectron2's "value" and "norm".
    """
    solver = cfg.SOLVER
    groups: list[dict[str, Any]] = []
    for name, child in model.named_children():
        child_groups = get_default_optimizer_params(
            child,
            base_lr=solver.BASE_LR * (solver.BACKBONE_MULTIPLIER if name == "backbone" else 1.0),
            weight_decay=solver.WEIGHT_DECAY,
            weight_decay_norm=solver.WEIGHT_DECAY_NORM,
            overrides={parameter: {"weight_decay": 0.0} for parameter in NO_DECAY},
        )
        groups += _scaled(child_groups, child)
    clip = solver.CLIP_GRADIENTS
    if clip.ENABLED and clip.CLIP_TYPE == FULL_MODEL:
        optimizer = ClippedAdamW(groups, max_norm=clip.CLIP_VALUE, lr=solver.BASE_LR, fused=True)
    else:
        optimizer = maybe_add_gradient_clipping(cfg, torch.optim.AdamW)(groups, lr=solver.BASE_LR, fused=True)
    # A fused step would undo the scaling of mixed precision after the clipping; it has to be undone before.
    optimizer._step_supports_amp_scaling = False
    return optimizer


def transferred_state(before: torch.optim.Optimizer, now: torch.optim.Optimizer) -> dict[str, Any]:
    """State dict of ``now`` with what ``before`` remembers of the same parameters.

    Settings such as learning rates and weight decay, and the groups that parameters are in because of them, are those
    of ``now``.
    """
    parameters = [parameter for group in now.param_groups for parameter in group["params"]]
    state = {place: before.state[p] for place, p in enumerate(parameters) if p in before.state}
    return now.state_dict() | {"state": state}


def _scaled(groups: list[dict[str, Any]], module: nn.Module) -> list[dict[str, Any]]:
    """Split groups of parameters so that each has its own learning rate, where the module asks for that."""
    factors: dict[str, float] = getattr(module, "learning_rate_factors", dict)()
    if not factors:
        return groups
    factor_of = {parameter: factors[name] for name, parameter in module.named_parameters()}
    scaled = []
    for group in groups:
        parts: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            parts.setdefault(factor_of[parameter], []).append(parameter)
        scaled += [{**group, "params": part, "lr": group["lr"] * factor} for factor, part in parts.items()]
    return scaled
