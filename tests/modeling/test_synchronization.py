"""A training step never waits for the GPU: nothing in it asks for a value, as tensors without values show."""

from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from transavs.modeling.transavs.query_targets import QUERY_TARGETS


def step_without_values(model: nn.Module, cfg: CfgNode) -> dict[str, torch.Tensor]:
    """Losses and their backward pass on tensors that have shapes alone."""
    mode = FakeTensorMode()
    state = {name: mode.from_tensor(value) for name, value in [*model.named_parameters(), *model.named_buffers()]}
    frames, size = cfg.INPUT.NUM_FRAMES, cfg.INPUT.IMAGE_SIZE
    with mode:
        clip: dict[str, Any] = {
            "images": torch.zeros(frames, 3, size, size, dtype=torch.uint8),
            "log_mel": torch.zeros(frames, 1, 96, 64),
            "labeled_frames": torch.arange(frames),
            "masks": torch.zeros(frames, size, size, dtype=torch.int64),
            "objects": torch.zeros(frames, size, size, dtype=torch.int64),
        }
        losses: dict[str, torch.Tensor] = torch.func.functional_call(model, state, ([clip, clip],))
        torch.stack(list(losses.values())).sum().backward()
    return losses


@pytest.mark.parametrize("rule", QUERY_TARGETS)
def test_transavs(tiny_cfg: CfgNode, rule: str):
    tiny_cfg.MODEL.TRANSAVS.QUERY_TARGET = rule
    assert step_without_values(build_model(tiny_cfg).train(), tiny_cfg)


def test_tpavi(tiny_cfg: CfgNode):
    tiny_cfg.MODEL.META_ARCHITECTURE = "TPAVI"
    tiny_cfg.MODEL.TPAVI.HEAD_CHANNELS = [8, 8]
    tiny_cfg.MODEL.TPAVI.AVM_WEIGHT = 0.5
    assert step_without_values(build_model(tiny_cfg).train(), tiny_cfg)


def test_a_step_that_asks_for_a_value_is_found(tiny_cfg: CfgNode):
    model = build_model(tiny_cfg).train()
    model.audio_backbone.register_forward_hook(lambda module, inputs, output: output * output.sum().item())
    with pytest.raises(DataDependentOutputException):
        step_without_values(model, tiny_cfg)
