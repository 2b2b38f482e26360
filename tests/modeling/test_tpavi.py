"""The AVSBench baseline: its linear block against the published product, its decoder, losses and the whole model."""

import pytest
import torch
from detectron2.modeling import build_model
from helpers.models import load_clips
from helpers.published_tpavi import direct_interaction
from torch import nn
from torch.nn import functional as F

from transavs.modeling.tpavi.avm_loss import (
    AVMLoss,
    audio_visual_mapping_loss,
    hard_mask,
    masked_vectors,
    soft_mask,
    visual_visual_mapping_loss,
)
from transavs.modeling.tpavi.block import TPAVIBlock
from transavs.modeling.tpavi.decoder import DilatedSum, FusionBlock, FusionDecoder, ResidualUnit
from transavs.modeling.tpavi.meta_arch import segmentation_loss
from transavs.utils.errors import AVSInputError

C, A, T = 12, 7, 3


def make_block(audio_bias: bool = True) -> TPAVIBlock:
    torch.manual_seed(0)
    block = TPAVIBlock(channels=C, inner_channels=6, audio_dim=A, audio_bias=audio_bias, norm="BN")
    nn.init.normal_(block.output_norm.weight)
    nn.init.normal_(block.output_norm.bias)
    return block


@pytest.mark.parametrize("with_audio", [True, False])
@pytest.mark.parametrize("audio_bias", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_the_linear_block_equals_the_direct_one(with_audio: bool, audio_bias: bool, training: bool):
    block = make_block(audio_bias).train(training)
    visual = torch.randn(2, T, C, 5, 4, requires_grad=True)
    audio = torch.randn(2, T, A, requires_grad=True) if with_audio else None
    windows = torch.arange(2).repeat_interleave(T)
    found, projected = block(visual.flatten(0, 1), windows, 2, None if audio is None else audio.flatten(0, 1))
    expected = direct_interaction(block, visual, audio)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (projected is None) is not with_audio
    wanted = [visual, *([audio] if audio is not None else []), block.theta.weight, block.g.weight, block.phi.weight]
    weights = torch.randn_like(found)
    gradients = [torch.autograd.grad((value * weights).sum(), wanted) for value in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("with_audio", [True, False])
def test_the_block_is_exact_under_autocast(with_audio: bool, dtype: torch.dtype):
    """With features so large and so many that no product of 16 bits would hold their sum over the pixels."""
    block = make_block()
    visual = (30 * torch.randn(T, C, 56, 56)).to(dtype).requires_grad_()
    audio = (30 * torch.randn(T, A)).to(dtype) if with_audio else None
    windows = torch.zeros(T, dtype=torch.int64)
    expected, sound = block(visual.float(), windows, 1, None if audio is None else audio.float())
    with torch.autocast("cpu", dtype):
        found, projected = block(visual, windows, 1, audio)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(projected, sound)
    weights = torch.randn_like(found)
    wanted = [visual, block.theta.weight, block.phi.bias, block.g.weight, block.output.weight]
    gradients = [torch.autograd.grad((value * weights).sum(), wanted) for value in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other)


def test_the_block_starts_as_its_layer_norm():
    block = TPAVIBlock(channels=C, inner_channels=6, audio_dim=A, audio_bias=True, norm="BN").eval()
    visual = torch.randn(2, C, 3, 3)
    found, _ = block(visual, torch.zeros(2, dtype=torch.int64), 1, torch.randn(2, A))
    torch.testing.assert_close(found, F.layer_norm(visual.permute(0, 2, 3, 1), (C,)).permute(0, 3, 1, 2))


def test_windows_do_not_hear_each_other():
    block = make_block().eval()
    visual, audio = torch.randn(5, C, 3, 3), torch.randn(5, A)
    windows = torch.tensor([0, 0, 0, 1, 1])
    together, _ = block(visual, windows, 2, audio)
    alone, _ = block(visual[3:], torch.zeros(2, dtype=torch.int64), 1, audio[3:])
    torch.testing.assert_close(together[3:], alone)


def test_residual_units_add_the_rectified_input():
    unit = ResidualUnit(4)
    relu = nn.ReLU(inplace=True)
    features = torch.randn(1, 4, 5, 5)

    def published(x: torch.Tensor) -> torch.Tensor:
        out = relu(x)  # in place: x is what the skip adds
        return unit.conv2(relu(unit.conv1(out))) + x

    torch.testing.assert_close(unit(features.clone()), published(features.clone()))
    assert (features < 0).any()


def test_fusion_goes_from_coarse_to_fine_to_full_size():
    decoder = FusionDecoder(channels=4, num_levels=3, head_channels=(6, 5), num_outputs=2)
    levels = [torch.randn(1, 4, size, size) for size in (8, 4, 2)]
    logits = decoder(levels)
    assert logits.shape == (1, 2, 32, 32)

    def doubled(features: torch.Tensor, align_corners: bool = True) -> torch.Tensor:
        size = 2 * features.shape[-1]
        return F.interpolate(features, size=(size, size), mode="bilinear", align_corners=align_corners)

    fused = doubled(decoder.blocks[0](levels[2]))
    fused = doubled(decoder.blocks[1](fused, levels[1]))
    fused = doubled(decoder.blocks[2](fused, levels[0]))
    first, second, _, last = decoder.head
    fused = doubled(F.conv2d(fused, first.weight, first.bias, padding=1), align_corners=False)
    fused = F.conv2d(fused, second.weight, second.bias, padding=1)
    torch.testing.assert_close(last(fused.relu()), logits)
    assert decoder.blocks[0].level_unit is None
    plain = FusionBlock(4, takes_level=True)
    expected = plain.unit(levels[1] + plain.level_unit(levels[1] * 2))
    torch.testing.assert_close(plain(levels[1], levels[1] * 2), expected)


def test_dilated_convolutions_are_summed():
    layer = DilatedSum(3, 2, (1, 2))
    features = torch.randn(1, 3, 6, 6)
    expected = 0
    for convolution, dilation in zip(layer.convolutions, (1, 2), strict=True):
        expected = expected + F.conv2d(
            features, convolution.weight, convolution.bias, padding=dilation, dilation=dilation
        )
    torch.testing.assert_close(layer(features), expected)


def test_avm_is_the_divergence_of_the_sound_from_the_masked_features():
    torch.manual_seed(0)
    features, sound = torch.randn(3, C, 4, 4), torch.randn(3, C)
    masks = (torch.rand(3, 1, 4, 4) > 0.5).float()
    vectors, fair = (masked_vectors(features, masks, over_image) for over_image in (True, False))
    for f in range(3):
        inside = features[f][:, masks[f, 0] > 0]
        torch.testing.assert_close(vectors[f], inside.sum(1) / 16)
        torch.testing.assert_close(fair[f], inside.mean(1))
    p, q = sound.softmax(1), vectors.softmax(1)
    expected = (p * (p / q).log()).sum(1)
    torch.testing.assert_close(audio_visual_mapping_loss(vectors, sound), expected)
    torch.testing.assert_close(audio_visual_mapping_loss(sound, sound), torch.zeros(3))


def test_avm_vv_looks_at_the_frame_that_sounds_most_alike():
    vectors, audio = torch.randn(4, C), torch.tensor([[0.0], [10.0], [1.0], [9.5]])
    partners = torch.tensor([2, 3, 0, 1])
    expected = audio_visual_mapping_loss(vectors, vectors[partners])
    torch.testing.assert_close(visual_visual_mapping_loss(vectors, audio), expected)


def test_masks_of_avm():
    logits = torch.randn(2, 1, 8, 8, requires_grad=True)
    soft = soft_mask(logits, (2, 2))
    torch.testing.assert_close(soft[0, 0, 0, 1], logits[0, 0, :4, 4:].mean().sigmoid())
    assert soft.requires_grad
    hard = hard_mask(logits, (2, 2))
    # AVSBench's AVSS code decides pixel by pixel and then averages the decisions.
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        cell = logits[1, 0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        assert hard[1, 0, row, column].item() == sum(value > 0 for value in cell.flatten().tolist()) / 16
    assert not hard.requires_grad
    classes = torch.zeros(1, 3, 4, 4)
    classes[0, 2, :2] = 5
    classes[0, 0, 2:] = 5
    classes[0, 0, 0, 0] = 9  # a strong background pixel among weaker sounding ones, which the mean logit would hide
    classes[0, 1, 3, 3] = 9
    assert hard_mask(classes, (2, 2))[0, 0].tolist() == [[0.75, 1], [0, 0.25]]
    classes[0, 0, 0, 0] = classes[0, 1, 3, 3] = 0
    torch.testing.assert_close(soft_mask(classes, (2, 2))[0, 0, :, 0], 1 - classes[0, :, ::2, 0].softmax(0)[0])


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("rectified", [True, False])
def test_avm_as_configured(tiny_cfg, reduction: str, rectified: bool):
    settings = {"FORM": "av", "MASK": "hard", "REDUCTION": reduction, "OVER_IMAGE": False, "RECTIFIED": rectified}
    for key, value in settings.items():
        tiny_cfg.MODEL.TPAVI[f"AVM_{key}"] = value
    logits, features, sounds = torch.randn(3, 1, 8, 8), torch.randn(3, C, 4, 4), torch.randn(3, C)
    logits[2] = -1  # nothing is masked there
    expected = []
    for f in range(3):
        vector = torch.zeros(C)
        shares = {
            (y, x): (logits[f, 0, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2] > 0).sum() / 4
            for y in range(4)
            for x in range(4)
        }
        for (y, x), share in shares.items():
            feature = features[f, :, y, x].clamp(min=0) if rectified else features[f, :, y, x]
            vector += share * feature / max(1, sum(shares.values()))
        p, q = sounds[f].softmax(0), vector.softmax(0)
        expected.append((p * (p / q).log()).sum())
    total = sum(expected) / (1 if reduction == "sum" else 3)
    torch.testing.assert_close(AVMLoss(tiny_cfg)(logits, features, sounds), total)


@pytest.mark.parametrize("outputs", [1, 4])
def test_ignored_pixels_take_no_part_in_the_segmentation_loss(outputs: int):
    """Their ids are beyond the classes; for one logit there are two classes."""
    logits = torch.randn(2, outputs, 6, 5, requires_grad=True)
    masks = torch.randint(max(2, outputs), (2, 6, 5))
    masks[0, :3], masks[1, 2, 2] = 255, max(2, outputs)
    loss, pixels = segmentation_loss(logits, masks)
    expected = []
    for f, y, x in (masks < max(2, outputs)).nonzero().tolist():
        scores = logits[f, :, y, x] if outputs > 1 else torch.stack([0 * logits[f, 0, y, x], logits[f, 0, y, x]])
        expected.append(-scores.log_softmax(0)[masks[f, y, x]])
    torch.testing.assert_close(loss, torch.stack(expected).mean())
    assert pixels == len(expected) == 60 - 15 - 1
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient.abs().amax(1) > 0).tolist() == (masks < 255).where(masks < max(2, outputs), False).tolist()
    loss, pixels = segmentation_loss(logits, torch.full_like(masks, 255))
    assert loss == pixels == 0


@pytest.mark.parametrize("key", ["FORM", "MASK", "REDUCTION"])
def test_avm_has_no_such_choice(tiny_cfg, key: str):
    tiny_cfg.MODEL.TPAVI[f"AVM_{key}"] = "both"
    with pytest.raises(AVSInputError, match=f"AVM_{key} is 'both': choose from "):
        AVMLoss(tiny_cfg)


@pytest.fixture
def tpavi_cfg(tiny_cfg):
    tiny_cfg.MODEL.META_ARCHITECTURE = "TPAVI"
    tiny_cfg.MODEL.TPAVI.HEAD_CHANNELS = [8, 8]
    tiny_cfg.MODEL.TPAVI.AVM_WEIGHT = 0.5
    return tiny_cfg


def test_segment_gives_logits_at_the_size_of_the_input(tpavi_cfg):
    model = build_model(tpavi_cfg).eval()
    images, audio = torch.randn(2, 5, 3, 32, 32), torch.randn(2, 5, model.audio_backbone.embed_dim)
    with torch.no_grad():
        logits = model.segment(images, audio)
        assert logits.shape == (2, 5, 1, 32, 32)
        torch.testing.assert_close(model.segment(images[:1], audio[:1]), logits[:1], rtol=1e-4, atol=1e-4)
    tpavi_cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 4
    assert build_model(tpavi_cfg).eval().segment(images, audio).shape == (2, 5, 4, 32, 32)


@pytest.mark.parametrize("avm_form", ["av", "vv"])
def test_tpavi_trains_and_scores(tpavi_cfg, ms3_records: list[dict], avm_form: str):
    tpavi_cfg.MODEL.TPAVI.AVM_FORM = avm_form
    tpavi_cfg.MODEL.TPAVI.VISUAL_VISUAL = True
    model = build_model(tpavi_cfg).train()
    for block in model.blocks.values():
        nn.init.ones_(block.output_norm.weight)  # zero at the start, which keeps gradients from theta, phi and g
    losses = model(load_clips(tpavi_cfg, ms3_records, is_train=True))
    assert set(losses) == {"loss_mask", "loss_avm"}
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    clips = load_clips(tpavi_cfg, ms3_records, is_train=False)
    with torch.no_grad():
        for clip, output in zip(clips, model(clips), strict=True):
            assert output["sem_seg"].shape == (5, 2, 40, 40)
            torch.testing.assert_close(output["sem_seg"].sum(1), torch.ones(5, 40, 40))
            torch.testing.assert_close(output["sem_seg"], model([clip])[0]["sem_seg"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("avm_form", ["av", "vv"])
@pytest.mark.parametrize("num_classes", [2, 4])
def test_losses_under_autocast(tpavi_cfg, ms3_records: list[dict], num_classes: int, avm_form: str, dtype: torch.dtype):
    """Of what the network gave in one call, in 16 bits: losses, and gradients scaled as in training, are float32's."""
    tpavi_cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, tpavi_cfg.MODEL.TPAVI.AVM_FORM = num_classes, avm_form
    model = build_model(tpavi_cfg).train()
    clips = load_clips(tpavi_cfg, ms3_records, is_train=True)
    with torch.autocast("cpu", dtype), torch.no_grad():
        logits, levels, sounds = model.predict_clips(clips)
    captured = [logits, *levels, *sounds.values()]
    results = []
    for precision in (dtype, torch.float32):
        values = [value.to(dtype).to(precision).requires_grad_() for value in captured]
        given = (values[0], values[1 : 1 + len(levels)], dict(zip(sounds, values[1 + len(levels) :], strict=True)))
        model.predict_clips = lambda clips, given=given: given
        with torch.autocast("cpu", dtype, enabled=precision == dtype):
            losses = model.losses(clips)
        gradients = torch.autograd.grad(1024 * sum(losses.values()), values, allow_unused=True)
        results.append((losses, gradients))
    (losses, gradients), (exact_losses, exact_gradients) = results
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact_losses[name].item(), rel=1e-3)
    for one, other in zip(gradients, exact_gradients, strict=True):
        assert (one is None) == (other is None)
        if other is not None:
            assert (one.float() - other).norm() < 0.01 * other.norm()


def test_two_interactions_are_averaged(tpavi_cfg):
    model = build_model(tpavi_cfg).eval()
    for block in model.blocks.values():
        nn.init.ones_(block.output_norm.weight)
    frames, audio = torch.randn(5, 3, 32, 32), torch.randn(5, model.audio_backbone.embed_dim)
    levels = {}
    for interactions in ((True, False), (False, True), (True, True)):
        model.audio_visual, model.visual_visual = interactions
        with torch.no_grad():
            levels[interactions] = model.predict(frames, audio, [5])[1]
    for heard, seen, both in zip(*levels.values(), strict=True):
        assert not torch.allclose(heard, seen)
        torch.testing.assert_close(both, (heard + seen) / 2)
