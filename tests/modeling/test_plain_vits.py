"""Plain vision transformers with a simple feature pyramid, and the other encoders of docs/models.md."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import timm
import torch
from detectron2.modeling import build_backbone, build_model
from helpers.models import load_clips, make_backbone
from helpers.repository import REPOSITORY
from torch import nn
from torch.nn import functional as F

from transavs.config.load import load_config
from transavs.engine.solver import build_optimizer
from transavs.modeling.backbones.simple_feature_pyramid import SimpleFeaturePyramid, resize_to_patches

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
DINOV2, DINOV3, SAM = "vit_small_patch14_dinov2", "vit_small_patch16_dinov3", "samvit_base_patch16"
PLAIN = (DINOV2, DINOV3, SAM)
HIERA = {"stages": (1, 1, 1, 1)}
# Every encoder of docs/models.md, and what makes a small one of it.
SMALLER: dict[str, dict[str, Any]] = {
    **{f"vit_{size}_patch16_dinov3": {"depth": 3} for size in ("small", "base", "large")},
    **{DINOV2: {"depth": 3}, SAM: {"depth": 3, "global_attn_indexes": (1,)}},
    **{"hieradet_small": HIERA, "sam2_hiera_tiny": HIERA},
    **{name: {"depths": (1, 1, 1, 1)} for name in ("convnext_tiny", "convnext_tiny.dinov3_lvd1689m")},
    **{"efficientnet_b0": {}, "mobilenetv2_100": {}, "mobilenetv3_large_100": {}, "mobilenetv4_conv_small": {}},
}


@pytest.fixture
def smaller(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Makes the model of a name a smaller one of the same kind."""
    create = timm.create_model

    def make_smaller(name: str) -> str:
        monkeypatch.setattr(timm, "create_model", partial(create, **SMALLER[name]))
        return name

    return make_smaller


@pytest.mark.parametrize("name", SMALLER)
def test_every_encoder_trains_and_evaluates(name: str, smaller, tiny_cfg, ms3_records: list[dict]):
    train_and_evaluate(smaller(name), tiny_cfg, ms3_records)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLER)
def test_every_encoder_of_full_size_trains_and_evaluates(name: str, tiny_cfg, ms3_records: list[dict]):
    train_and_evaluate(name, tiny_cfg, ms3_records)


def train_and_evaluate(name: str, cfg, records: list[dict]) -> None:
    cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"
    cfg.MODEL.TIMM.NAME = name
    cfg.MODEL.TIMM.DROP_PATH_RATE = 0.1
    cfg.INPUT.IMAGE_SIZE = 64
    model = build_model(cfg).train()
    optimizer = build_optimizer(cfg, model)
    clips = load_clips(cfg, records[:2], is_train=True)
    for _ in range(2):
        optimizer.zero_grad()
        sum(model(clips).values()).backward()
        # Distributed training waits for the gradient of every parameter.
        assert [n for n, p in model.backbone.named_parameters() if p.requires_grad and p.grad is None] == []
        optimizer.step()
    model.eval()
    with torch.no_grad():
        outputs = model(load_clips(cfg, records[:2], is_train=False))
    assert len(outputs) == 2
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("size", [(64, 64), (100, 100), (90, 122)])
def test_features_have_the_size_of_the_image_over_their_strides(name: str, size: tuple[int, int], smaller):
    backbone = make_backbone(smaller(name), image_size=size[0]).eval()
    assert {feature: shape.stride for feature, shape in backbone.output_shape().items()} == STRIDES
    with torch.no_grad():
        features = backbone(torch.randn(2, 3, *size))
    for feature, shape in backbone.output_shape().items():
        height, width = (-(-side // shape.stride) for side in size)
        assert features[feature].shape == (2, shape.channels, height, width)


def test_only_the_features_that_are_asked_for_are_built(smaller):
    backbone = make_backbone(smaller(DINOV3), out_features=["res3", "res5"])
    assert list(backbone.output_shape()) == list(backbone(torch.randn(1, 3, 64, 64))) == ["res3", "res5"]
    assert not any("res2" in name or "res4" in name for name in backbone.state_dict())


@pytest.mark.parametrize("side", [64, 96, 100, 210])
def test_images_are_resized_to_the_nearest_whole_patches(side: int, smaller):
    backbone = make_backbone(smaller(DINOV2)).eval()
    nearest = min(range(14, 300, 14), key=lambda multiple: abs(multiple - side))
    images = torch.randn(1, 3, side, side)
    resized = F.interpolate(images, size=(nearest, nearest), mode="bilinear", align_corners=False)
    with torch.no_grad():
        (tokens,) = backbone.body(resized)
        expected = backbone.pyramid(tokens, (side, side))
        for name, feature in backbone(images).items():
            torch.testing.assert_close(feature, expected[name])


def test_an_image_of_whole_patches_is_left_alone_and_a_tiny_one_gets_a_patch():
    images = torch.randn(1, 3, 32, 48)
    assert resize_to_patches(images, 16) is images
    assert resize_to_patches(images[..., :5, :5], 16).shape == (1, 3, 16, 16)


def test_pyramid_of_vitdet_written_out():
    """Strides 4, 8, 16, 32 from a map of stride 16: two deconvolutions, one, none, max pooling."""
    torch.manual_seed(0)
    pyramid = SimpleFeaturePyramid(in_channels=16, patch_size=16, out_features=list(STRIDES), out_channels=8).eval()
    tokens = torch.randn(2, 16, 4, 4)
    with torch.no_grad():
        levels = pyramid(tokens, (64, 64))
        normalized = layer_norm(tokens)
        up = pyramid.resample["res2"]
        finest = up[3](F.gelu(layer_norm(up[0](normalized))))
        below = {
            "res2": finest,
            "res3": pyramid.resample["res3"][0](normalized),
            "res4": normalized,
            "res5": F.max_pool2d(normalized, 2),
        }
        assert finest.shape == (2, 4, 16, 16)
        for name, level in below.items():
            reduce, _, mix, _ = pyramid.project[name]
            hidden = layer_norm(F.conv2d(level, reduce.weight))
            expected = layer_norm(F.conv2d(hidden, mix.weight, padding=1))
            torch.testing.assert_close(levels[name], expected, atol=1e-4, rtol=1e-4)


def layer_norm(x: torch.Tensor) -> torch.Tensor:
    return (x - x.mean(1, keepdim=True)) / x.var(1, correction=0, keepdim=True).add(1e-6).sqrt()


@pytest.mark.parametrize(("patch", "tokens"), [(8, 8), (14, 5), (16, 4), (32, 2)])
def test_pyramids_of_other_patch_sizes(patch: int, tokens: int):
    pyramid = SimpleFeaturePyramid(in_channels=32, patch_size=patch, out_features=list(STRIDES), out_channels=8)
    levels = pyramid(torch.randn(1, 32, tokens, tokens), (64, 64))
    assert {name: level.shape[-1] for name, level in levels.items()} == {n: 64 // s for n, s in STRIDES.items()}


@pytest.mark.parametrize("name", PLAIN)
def test_one_state_dict_fits_all_image_sizes(name: str, smaller):
    first, second = (make_backbone(smaller(name), image_size=size).eval() for size in (64, 96))
    for parameter in first.parameters():
        nn.init.normal_(parameter, std=0.1)
    second.load_state_dict(first.state_dict())
    for size in (64, 96):
        images = torch.randn(1, 3, size, size)
        with torch.no_grad():
            for one, other in zip(first(images).values(), second(images).values(), strict=True):
                assert torch.equal(one, other)


@pytest.mark.parametrize(("name", "side"), [(DINOV2, 98), (DINOV2, 56), (SAM, 96)])
def test_positions_are_interpolated(name: str, side: int, smaller):
    backbone = make_backbone(smaller(name), image_size=side).eval()
    model = backbone.body.model
    nn.init.normal_(model.pos_embed)
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.randn(1, 3, side, side)
    with torch.no_grad():
        backbone(images)
        patches = model.patch_embed(images)  # (1, h, w, channels)
        grid = model.pos_embed if name == SAM else model.pos_embed[:, 1:].unflatten(1, model.patch_embed.grid_size)
        positions = F.interpolate(
            grid.permute(0, 3, 1, 2), size=patches.shape[1:3], mode="bicubic", antialias=True
        ).permute(0, 2, 3, 1)
    found = seen[0] if name == SAM else seen[0][:, 1:].view_as(patches)
    torch.testing.assert_close(found, patches + positions)


@pytest.mark.parametrize("name", [*PLAIN, "sam2_hiera_tiny"])
def test_frozen_stages_have_no_gradient_and_the_others_do(name: str, smaller):
    backbone = make_backbone(smaller(name), frozen_stages=2)
    sum(feature.square().sum() for feature in backbone(torch.randn(2, 3, 64, 64)).values()).backward()
    frozen = {name for name, parameter in backbone.named_parameters() if parameter.grad is None}
    expected = {n for n, _ in backbone.named_parameters() if layer_by_name(n) < 3}
    assert frozen == expected
    assert "body.model.patch_embed.proj.weight" in frozen
    assert name == DINOV3 or "body.model.pos_embed" in frozen


def layer_by_name(name: str, last: int = 99) -> int:
    if not name.startswith("body.model."):
        return last
    block = re.match(r"body\.model\.blocks\.(\d+)\.", name)
    return int(block.group(1)) + 1 if block else 0


@pytest.mark.parametrize("name", [*PLAIN, "sam2_hiera_tiny"])
def test_learning_rates_decay_from_layer_to_layer(name: str, smaller):
    cfg = load_config(REPOSITORY / "configs/s4_r50.yaml")
    backbone = make_backbone(smaller(name), layer_decay=0.7)
    model = nn.ModuleDict({"backbone": backbone, "head": nn.Linear(2, 2)})
    groups = build_optimizer(cfg, model).param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    decays = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    base, last = cfg.SOLVER.BASE_LR * cfg.SOLVER.BACKBONE_MULTIPLIER, len(backbone.body.model.blocks) + 1
    for parameter_name, parameter in backbone.named_parameters():
        layer = layer_by_name(parameter_name, last)
        assert rates[id(parameter)] == pytest.approx(base * 0.7 ** (last - layer)), parameter_name
        if parameter_name.endswith(("pos_embed", "cls_token", "reg_token", "norm1.weight", "pyramid.norm.weight")):
            assert decays[id(parameter)] == 0
        elif parameter_name.endswith(("qkv.weight", "pyramid.project.res4.0.weight")):
            assert decays[id(parameter)] == cfg.SOLVER.WEIGHT_DECAY > 0
    assert rates[id(model["head"].weight)] == cfg.SOLVER.BASE_LR
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters())) == len(rates)


def test_without_decay_nothing_is_split(smaller):
    cfg = load_config(REPOSITORY / "configs/s4_r50.yaml")
    backbone = make_backbone(smaller(DINOV3))
    assert backbone.learning_rate_factors() == {}
    groups = build_optimizer(cfg, nn.ModuleDict({"backbone": backbone})).param_groups
    assert {group["lr"] for group in groups} == {cfg.SOLVER.BASE_LR * cfg.SOLVER.BACKBONE_MULTIPLIER}
    assert len({group["weight_decay"] for group in groups}) == len(groups)


def test_paths_are_dropped_more_and_more_often(smaller):
    blocks = make_backbone(smaller(DINOV3), drop_path_rate=0.4).body.model.blocks
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in blocks]
    assert rates == pytest.approx([0.0, 0.2, 0.4])


@pytest.mark.parametrize(
    ("config", "name", "options"),
    [
        ("s4_swinb", "swin_tiny_patch4_window7_224", {"img_size": 64}),
        ("tpavi/s4_pvtv2b5", "pvt_v2_b0", {}),
        ("s4_swinb", "convnext_atto", {}),
    ],
)
def test_models_with_stages_are_timms_bit_for_bit(config: str, name: str, options: dict):
    settings = ["MODEL.DEVICE", "cpu", "INPUT.IMAGE_SIZE", "64", "MODEL.TIMM.NAME", name, "MODEL.TIMM.OUT_NORM", ""]
    cfg = load_config(
        REPOSITORY / f"configs/{config}.yaml",
        [*settings, "MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.PRETRAINED", "False"],
    )
    torch.manual_seed(3)
    backbone = build_backbone(cfg).eval()
    torch.manual_seed(3)
    drop = {"drop_path_rate": cfg.MODEL.TIMM.DROP_PATH_RATE} if cfg.MODEL.TIMM.DROP_PATH_RATE else {}
    reference = timm.create_model(name, features_only=True, **options, **drop).eval()
    state = reference.state_dict()
    ours = {key.removeprefix("body."): value for key, value in backbone.state_dict().items()}
    assert ours.keys() == state.keys()
    assert all(torch.equal(ours[key], value) for key, value in state.items())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = reference(images)
        found = backbone(images)
    for feature, reference_feature in zip(found.values(), expected, strict=True):
        if reference_feature.shape != feature.shape:
            reference_feature = reference_feature.permute(0, 3, 1, 2)
        assert torch.equal(feature, reference_feature)
