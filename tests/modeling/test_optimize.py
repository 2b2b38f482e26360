"""A model made quick for inference gives what it gave."""

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from transavs.modeling.optimize import optimize_for_inference
from transavs.utils.errors import AVSInputError

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


@pytest.mark.parametrize("frames_per_chunk", [1, 3, 100])
@pytest.mark.parametrize("architecture", ["TransAVS", "TPAVI"])
def test_frames_in_chunks_give_the_scores_of_all_at_once(tiny_cfg, architecture: str, frames_per_chunk: int):
    tiny_cfg.MODEL.META_ARCHITECTURE = architecture
    tiny_cfg.MODEL.TPAVI.HEAD_CHANNELS = [8, 8]
    torch.manual_seed(0)
    model = build_model(tiny_cfg).eval()
    size = tiny_cfg.INPUT.IMAGE_SIZE
    images, log_mel = 255 * torch.rand(2, 5, 3, size, size), torch.rand(2, 5, 1, 96, 64)
    largest = 0

    def see(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal largest
        largest = max(largest, len(inputs[0]))

    model.backbone.register_forward_pre_hook(see)
    with torch.no_grad():
        expected = model.forward_tensors(images, log_mel)
        assert largest == 10
        model.frames_per_chunk, largest = frames_per_chunk, 0
        torch.testing.assert_close(model.forward_tensors(images, log_mel), expected, rtol=0, atol=1e-5)
    assert largest == min(frames_per_chunk, 10)


def test_chunks_of_no_frame(tiny_cfg):
    tiny_cfg.TEST.FRAMES_PER_CHUNK = 0
    with pytest.raises(AVSInputError, match=r"TEST\.FRAMES_PER_CHUNK is 0"):
        build_model(tiny_cfg)
