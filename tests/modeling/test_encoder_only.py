"""EncoderTransAVS: queries in the blocks of a plain ViT, and the model around it."""

import math
from functools import partial
from typing import Any

import pytest
import timm
import torch
from detectron2.modeling import build_model
from helpers.models import load_clips
from helpers.repository import ENCODER_ONLY, REPOSITORY
from torch import nn
from torch.nn import functional as F

from transavs import AVSInputError
from transavs.config.load import load_config
from transavs.engine.solver import build_optimizer
from transavs.modeling import QueryViT
from transavs.modeling.activation_checkpoint import checkpoint_activations
from transavs.modeling.transavs.encoder_only import PatchUpsampling

DINOV3, DINOV2, TINY, MIXED = (
    "vit_small_patch16_dinov3",
    "vit_small_patch14_dinov2",
    "test_vit",
    "vit_small_patch16_rope_mixed_224",
)
QUERIES = 5


@pytest.fixture
def of_depth_3(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of timm have three blocks."""
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, depth=3))


@pytest.fixture
def encoder_cfg(tiny_cfg):
    tiny_cfg.merge_from_list(ENCODER_ONLY)
    return tiny_cfg


def make_vit(name: str, query_blocks: int = 2, **changes: Any) -> QueryViT:
    torch.manual_seed(0)
    settings = {"in_channels": 3, "image_size": 64, "pretrained": False, "weights": "", "drop_path_rate": 0.0}
    settings |= {"num_queries": QUERIES, "query_blocks": query_blocks, "frozen_stages": 0}
    return grown(QueryViT(name=name, **(settings | changes)).eval())


def grown(module: nn.Module) -> Any:
    """The module with layer scales and positions as large as after training, so that every token matters."""
    for name, parameter in module.named_parameters():
        if "gamma" in name or name.endswith("pos_embed"):
            nn.init.normal_(parameter, std=0.5)
    return module


@pytest.mark.usefixtures("of_depth_3")
@pytest.mark.parametrize("name", [DINOV3, DINOV2, TINY, MIXED])
def test_patches_that_do_not_see_the_queries_are_timms(name: str):
    vit = make_vit(name)
    model = vit.body.model
    reference = timm.create_model(name, num_classes=0, dynamic_img_size=True).eval()
    reference.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 84, 70) if name == DINOV2 else torch.randn(2, 3, 64, 80)
    with torch.no_grad():
        expected = reference.forward_features(images)
        seen = torch.ones(QUERIES + expected.shape[1], QUERIES + expected.shape[1], dtype=torch.bool)
        seen[QUERIES:, :QUERIES] = False
        for block in model.blocks[-vit.query_blocks :]:
            block.forward = partial(block.forward, attn_mask=seen)
        ((queries, patches),) = vit(images, torch.randn(2, QUERIES, vit.channels))
    height, width = (side // vit.patch_size for side in images.shape[-2:])
    assert queries.shape == (2, QUERIES, vit.channels)
    assert patches.shape == (2, vit.channels, height, width)
    torch.testing.assert_close(patches.flatten(2).transpose(1, 2), expected[:, -height * width :], rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("of_depth_3")
def test_queries_in_all_blocks_are_register_tokens():
    """Which timm's DINOv3 has too, and leaves without rotary positions."""
    vit = make_vit(DINOV3, query_blocks=3)
    reference = timm.create_model(DINOV3, num_classes=0, num_reg_tokens=4 + QUERIES).eval()
    state = vit.body.model.state_dict()
    queries = torch.randn(QUERIES, vit.channels)
    state["reg_token"] = torch.cat([state["reg_token"], queries[None]], 1)
    reference.load_state_dict(state)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        ((found, patches),) = vit(images, queries.expand(2, -1, -1))
        expected = reference.forward_features(images)
    torch.testing.assert_close(found, expected[:, 5 : 5 + QUERIES], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(patches.flatten(2).transpose(1, 2), expected[:, -24:], rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("of_depth_3")
def test_states_are_those_between_the_blocks():
    vit = make_vit(TINY)
    images, queries = torch.randn(2, 3, 64, 64), torch.randn(2, QUERIES, vit.channels)
    with torch.no_grad():
        states = vit(images, queries, every_block=True)
        assert len(states) == 3
        # Before the first of the last two blocks: the queries as they come, and the patches of one block, normalized.
        torch.testing.assert_close(states[0][0], vit.body.model.norm(queries))
        (tokens,) = vit.body.model.forward_intermediates(images, indices=[0], norm=True, intermediates_only=True)
        torch.testing.assert_close(states[0][1], tokens)
        (last,) = vit(images, queries)
    for one, other in zip(states[-1], last, strict=True):
        assert torch.equal(one, other)
    assert not torch.allclose(states[1][0], states[2][0], atol=1e-2)


@pytest.mark.usefixtures("of_depth_3")
def test_frames_do_not_see_each_others_queries_or_patches():
    vit = make_vit(DINOV3)
    images, queries = torch.randn(3, 3, 64, 64), torch.randn(3, QUERIES, vit.channels)
    with torch.no_grad():
        ((together, patches),) = vit(images, queries)
        ((alone, own),) = vit(images[1:2], queries[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(patches[1:2], own, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("of_depth_3")
def test_rates_decay_and_stages_freeze_as_those_of_other_backbones():
    vit = make_vit(TINY, frozen_stages=1, layer_decay=0.5)
    factors = vit.learning_rate_factors()
    blocks = {factors[f"body.model.blocks.{number}.norm1.weight"]: number for number in range(3)}
    assert blocks == {0.125: 0, 0.25: 1, 0.5: 2}
    assert factors["body.model.pos_embed"] == 0.0625
    assert factors["body.model.norm.weight"] == 0.5
    vit(torch.randn(1, 3, 64, 64), torch.randn(1, QUERIES, vit.channels))[0][0].sum().backward()
    trained = {name for name, parameter in vit.named_parameters() if parameter.grad is not None}
    last = ("body.model.blocks.1.", "body.model.blocks.2.", "body.model.norm.")
    assert trained == {name for name in factors if name.startswith(last)}


def test_models_and_settings_that_do_not_fit(encoder_cfg):
    for name in ("swin_tiny_patch4_window7_224", "resnet10t", "test_vit2"):
        with pytest.raises(AVSInputError, match=rf"queries cannot enter '{name}'"):
            make_vit(name)
    with pytest.raises(AVSInputError, match="QUERY_BLOCKS is 7 and 'test_vit' has 6 blocks"):
        make_vit(TINY, query_blocks=7)
    encoder_cfg.MODEL.TRANSAVS.HIDDEN_DIM = 32
    with pytest.raises(AVSInputError, match=r"CONVS_DIM are \(32, 64\): set both to 64, the channels of 'test_vit'"):
        build_model(encoder_cfg)
    encoder_cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"
    with pytest.raises(AVSInputError, match=r"BACKBONE\.NAME is 'build_timm_backbone': .* build_query_vit_backbone"):
        build_model(encoder_cfg)


@pytest.mark.parametrize(("patch", "stride"), [(8, 4), (14, 3.5), (16, 4), (32, 4)])
def test_patches_are_upsampled_to_stride_4(patch: int, stride: float):
    upsampling = PatchUpsampling(channels=8, patch_size=patch)
    assert upsampling.forward_features(torch.randn(2, 8, 3, 5)).shape == (2, 8, 3 * patch / stride, 5 * patch / stride)


def test_a_doubling_written_out():
    up, _, mix, _ = upsampling = PatchUpsampling(channels=6, patch_size=8)
    patches = torch.randn(2, 6, 3, 4)
    doubled = torch.einsum("fchw,cdij->fdhiwj", patches, up.weight).reshape(2, 6, 6, 8) + up.bias[:, None, None]
    mixed = F.conv2d(F.gelu(doubled), mix.weight, padding=1, groups=6)
    expected = (mixed - mixed.mean(1, keepdim=True)) / mixed.var(1, correction=0, keepdim=True).add(1e-6).sqrt()
    torch.testing.assert_close(upsampling.forward_features(patches), expected, rtol=1e-4, atol=1e-4)


def test_inference_does_not_depend_on_the_batch_or_its_chunks(encoder_cfg, ms3_records: list[dict]):
    model = build_model(encoder_cfg).eval()
    clips = load_clips(encoder_cfg, ms3_records, is_train=False)
    with torch.no_grad():
        together = model(clips)
        model.frames_per_chunk = 2
        alone = [model([clip])[0] for clip in clips]
    for one, other in zip(together, alone, strict=True):
        assert one["sem_seg"].shape == (5, 2, 40, 40)
        torch.testing.assert_close(one["sem_seg"], other["sem_seg"], rtol=1e-4, atol=1e-5)


def test_the_audio_of_a_frame_is_its_own_second(encoder_cfg, ms3_records: list[dict]):
    model = build_model(encoder_cfg).eval()
    assert not model.uses_temporal_context
    clip = load_clips(encoder_cfg, ms3_records[:1], is_train=False)[0]
    images, masks = model.normalize(clip["images"]), []
    for change in (0, 3):
        clip["log_mel"][2] += change
        with torch.no_grad():
            masks.append(model.predict(images, torch.stack(model.audio_embeddings([clip])))["pred_masks"])
    assert [torch.equal(a, b) for a, b in zip(*masks, strict=True)] == [True, True, False, True, True]


def test_predictions_are_made_before_every_block_that_the_queries_enter(encoder_cfg, ms3_records: list[dict]):
    clips = load_clips(encoder_cfg, ms3_records[:1], is_train=True)
    for blocks, deep, expected in ((2, True, 2), (2, False, 0), (6, True, 6)):
        encoder_cfg.MODEL.TRANSAVS.QUERY_BLOCKS = blocks
        encoder_cfg.MODEL.TRANSAVS.DEEP_SUPERVISION = deep
        losses = build_model(encoder_cfg).train()(clips)
        assert sum(name.startswith("loss_mask_") for name in losses) == expected
        assert losses["loss_alignment"] > 0


def test_gradients_reach_every_parameter(encoder_cfg, ms3_records: list[dict]):
    encoder_cfg.MODEL.TRANSAVS.AQDL_THRESHOLD = encoder_cfg.MODEL.TRANSAVS.AQML_THRESHOLD = [0.0, 0.0]
    encoder_cfg.MODEL.TRANSAVS.AQDL_DISTANCE = 1e4
    model = build_model(encoder_cfg).train()
    sum(model(load_clips(encoder_cfg, ms3_records, is_train=True)).values()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_it_trains_in_bfloat16_with_its_blocks_computed_again(encoder_cfg, ms3_records: list[dict]):
    base = load_config(REPOSITORY / "configs/Base-EncoderTransAVS.yaml")
    clips = load_clips(encoder_cfg, ms3_records[:2], is_train=True)
    gradients = []
    for patterns in ([], base.MODEL.ACTIVATION_CHECKPOINTING):
        torch.manual_seed(0)
        model = build_model(encoder_cfg).train()
        checkpoint_activations(model, patterns)
        sum(model(clips).values()).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
        optimizer = build_optimizer(encoder_cfg, model)
        for _ in range(2):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                losses = model(clips)
            sum(losses.values()).backward()
            optimizer.step()
        assert all(p.isfinite().all() and p.grad.isfinite().all() for p in model.parameters())
    torch.testing.assert_close(*gradients)
    with torch.no_grad():
        assert math.isfinite(model.eval()(load_clips(encoder_cfg, ms3_records[:1], is_train=False))[0]["sem_seg"].sum())


def test_weights_of_a_vit_with_a_pyramid_fit(encoder_cfg):
    """By their names: what has been trained with the one backbone can start the other."""
    vit = build_model(encoder_cfg).backbone
    encoder_cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"
    encoder_cfg.MODEL.META_ARCHITECTURE = "TransAVS"
    pyramid = build_model(encoder_cfg).backbone.state_dict()
    norm = {"body.model.norm.weight", "body.model.norm.bias"}
    assert vit.state_dict().keys() - pyramid.keys() == norm
