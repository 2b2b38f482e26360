"""Batch norms of every kind under activation checkpointing."""

import pytest
import torch
from detectron2.layers import get_norm
from torch import nn

from transavs.modeling.activation_checkpoint import checkpoint_activations

NORMS = {
    "BatchNorm1d": (nn.BatchNorm1d, (4, 3)),
    "BatchNorm2d": (nn.BatchNorm2d, (4, 3, 5, 5)),
    "BatchNorm3d": (nn.BatchNorm3d, (4, 3, 2, 5, 5)),
    "SyncBatchNorm": (nn.SyncBatchNorm, (4, 3, 5, 5)),  # in one process it takes CPUs too
    "NaiveSyncBatchNorm": (lambda channels: get_norm("naiveSyncBN_N", channels), (4, 3, 5, 5)),
    "no statistics": (lambda channels: nn.BatchNorm2d(channels, track_running_stats=False), (4, 3, 5, 5)),
}


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("name", NORMS)
def test_statistics_take_each_batch_once(name: str, momentum: float | None):
    make, shape = NORMS[name]
    buffers, gradients = [], []
    for patterns in ([], ["1"]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Identity(), nn.Sequential(make(3), nn.Tanh(), nn.Flatten()))
        model[1][0].momentum = momentum
        checkpoint_activations(model, patterns)
        for _ in range(3):
            model(torch.randn(shape).requires_grad_()).square().sum().backward()
        assert model[1][0].momentum == momentum
        buffers.append(dict(model.named_buffers()))
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*buffers, rtol=0, atol=0)
    torch.testing.assert_close(*gradients)
    if "1.0.running_mean" in buffers[0]:
        assert buffers[0]["1.0.num_batches_tracked"] == 3
