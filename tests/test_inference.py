"""A model made quick for inference gives what it gave."""

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from transavs.modeling.inference import optimize_for_inference

BATCH_NORMS = ("BN", "FrozenBN", "naiveSyncBN_N")


@pytest.mark.parametrize("norm", BATCH_NORMS)
def test_folded_batch_norms_change_no_output(tiny_cfg, norm: str):
    tiny_cfg.MODEL.RESNETS.NORM = norm
    torch.manual_seed(0)
    model = build_model(tiny_cfg).eval()
    generator = torch.Generator().manual_seed(1)
    for name, values in [*model.named_parameters(), *model.named_buffers()]:
        if ".norm." in name and values.is_floating_point():  # as after training
            values.data = 0.5 + torch.rand(values.shape, generator=generator)
    size = tiny_cfg.INPUT.IMAGE_SIZE
    images = torch.randn(5, 3, size, size, generator=generator)
    audio = torch.rand(1, 5, model.audio_backbone.embed_dim, generator=generator)
    with torch.no_grad():
        expected = model.predict(images, audio)
        found = optimize_for_inference(model).predict(images, audio)
    for name in ("pred_logits", "pred_masks"):
        scale = expected[name].std().item()
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-4 * scale)
    folded = [module for module in model.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert not folded
    assert not any(parameter.requires_grad for parameter in model.parameters())
