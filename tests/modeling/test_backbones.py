"""timm backbones, and parts that a user registers."""

import re
from pathlib import Path

import pytest
import timm
import torch
import yaml
from detectron2.data import build_detection_test_loader
from detectron2.modeling import build_backbone, build_model
from helpers.models import make_backbone
from helpers.repository import REPOSITORY
from torch import nn

from transavs import AVSInputError
from transavs.config.load import load_config
from transavs.data import AVSDatasetMapper
from transavs.engine.solver import build_optimizer

SWIN = "swin_tiny_patch4_window7_224"


NAMES = [
    *("resnet10t", "swin_tiny_patch4_window7_224", "pvt_v2_b0", "convnext_atto"),
    *("tf_efficientnet_lite0", "efficientnet_b0", "mobilenetv3_large_100"),  # keep their stages in a list
    "sam2_hiera_tiny",  # is left whole
]


@pytest.mark.parametrize("name", NAMES)
def test_features_have_the_shapes_they_announce(name: str):
    backbone = make_backbone(name).eval()
    shapes = backbone.output_shape()
    assert {feature: shape.stride for feature, shape in shapes.items()} == {
        "res2": 4,
        "res3": 8,
        "res4": 16,
        "res5": 32,
    }
    with torch.no_grad():
        features = backbone(torch.randn(2, 3, 64, 64))
    for feature, shape in shapes.items():
        assert features[feature].shape == (2, shape.channels, 64 // shape.stride, 64 // shape.stride)


def test_features_are_normalized_over_their_channels():
    plain, normalized = make_backbone(SWIN).eval(), make_backbone(SWIN, out_norm="LN").eval()
    assert plain.state_dict().keys() == {name for name in normalized.state_dict() if "norms." not in name}
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for (name, before), after in zip(plain(images).items(), normalized(images).values(), strict=True):
            assert before.mean(1).abs().max() > 0.01, name
            deviation = before.var(1, correction=0, keepdim=True).add(1e-6).sqrt()
            torch.testing.assert_close(after, (before - before.mean(1, keepdim=True)) / deviation)
    normalized(images)["res4"].sum().backward()
    assert normalized.norms["res4"].weight.grad is not None


def test_norms_and_positions_of_swin_do_not_decay():
    cfg = load_config(REPOSITORY / "configs/s4_swinb.yaml", ["MODEL.TIMM.PRETRAINED", "False"])
    model = nn.ModuleDict({"backbone": make_backbone(SWIN, out_norm=cfg.MODEL.TIMM.OUT_NORM)})
    decays = {
        id(parameter): group["weight_decay"]
        for group in build_optimizer(cfg, model).param_groups
        for parameter in group["params"]
    }
    kinds = {"relative_position_bias_table": 0, "norms.": 0, ".norm1.": 0, "qkv.weight": 0.05, "fc1.weight": 0.05}
    for kind, expected in kinds.items():
        found = [decays[id(parameter)] for name, parameter in model.named_parameters() if kind in name]
        assert found == [expected] * len(found)
        assert found
    assert len(decays) == len(list(model.parameters()))


def test_weights_of_the_whole_timm_model_from_a_file(tmp_path: Path):
    torch.manual_seed(1)
    whole = timm.create_model("resnet10t", pretrained=False)
    torch.save(whole.state_dict(), tmp_path / "resnet10t.pth")
    backbone = make_backbone("resnet10t", weights=str(tmp_path / "resnet10t.pth"))
    assert torch.equal(backbone.body.layer3[0].conv1.weight, whole.layer3[0].conv1.weight)
    with pytest.raises(AVSInputError, match=r"MODEL\.TIMM\.WEIGHTS: .*gone\.pth does not exist"):
        make_backbone("resnet10t", weights=str(tmp_path / "gone.pth"))


@pytest.mark.parametrize("name", NAMES)
def test_frozen_stages_do_not_move(name: str):
    backbone = make_backbone(name, frozen_stages=2).eval()
    reference = make_backbone(name).eval()
    images = torch.randn(4, 3, 64, 64)
    reference(images)["res3"].sum().backward()  # reaches the first two stages and what comes before them
    later = {key for key, p in reference.named_parameters() if p.grad is None}
    assert later == {key for key, p in backbone.named_parameters() if p.requires_grad}
    if "swin" not in name:  # drops paths at random
        backbone.train()
    # Frozen batch norms use their stored statistics also when training, and leave them alone.
    for _ in range(2):
        torch.testing.assert_close(backbone(images)["res3"], reference(images)["res3"])


@pytest.mark.parametrize(
    ("config", "frozen"),
    [("s4_r50", True), ("quickstart", False), ("cpu/s4_r18", False), ("tpavi/s4_r50", False)],
)
def test_norms_with_imagenet_weights_stay_and_those_from_nothing_are_trained(config: str, frozen: bool):
    """TPAVI trains its own, as published."""
    cfg = load_config(REPOSITORY / f"configs/{config}.yaml", ["MODEL.DEVICE", "cpu"])
    backbone = build_backbone(cfg).train()
    before = {name: value.clone() for name, value in backbone.state_dict().items() if ".norm." in name}
    sum(feature.mean() for feature in backbone(3 * torch.rand(2, 3, 64, 64)).values()).backward()
    after = backbone.state_dict()
    statistics = [name for name in before if "running" in name]
    assert statistics
    assert all(torch.equal(before[name], after[name]) is frozen for name in statistics)
    norms = [parameter for name, parameter in backbone.named_parameters() if ".norm." in name]
    assert bool(norms) is not frozen
    assert all(parameter.grad is not None for parameter in norms)


def test_models_that_do_not_fit():
    with pytest.raises(AVSInputError, match=r"'no_such_model' .* cannot be built"):
        make_backbone("no_such_model")
    with pytest.raises(AVSInputError, match="gives no pyramid of features"):
        make_backbone("sequencer2d_s")
    with pytest.raises(AVSInputError, match=r"'twins_svt_small' does not show its stages: set FROZEN_STAGES to 0"):
        make_backbone("twins_svt_small", frozen_stages=1)
    with pytest.raises(AVSInputError, match=r"'resnet10t' does not show its layers: set LAYER_DECAY to 1\.0"):
        make_backbone("resnet10t", layer_decay=0.8)
    with pytest.raises(AVSInputError, match=r"'sam2_hiera_tiny' .* set INPUT\.IMAGE_SIZE to a multiple of 32$"):
        make_backbone("sam2_hiera_tiny", image_size=80)
    with pytest.raises(AVSInputError, match=r"'mixer_s32_224' .* set INPUT\.IMAGE_SIZE to a multiple of 32$"):
        make_backbone("mixer_s32_224", image_size=80)


def test_the_example_of_the_docs_trains(tiny_cfg, ms3_records: list[dict], tmp_path: Path):
    text = (REPOSITORY / "docs/extending.md").read_text()
    code, settings = (re.search(rf"```{kind}\n(.*?)```", text, re.S).group(1) for kind in ("python", "yaml"))
    exec(compile(code, "my_parts.py", "exec"), {})
    (tmp_path / "mine.yaml").write_text(settings)
    tiny_cfg.merge_from_file(str(tmp_path / "mine.yaml"))
    assert yaml.safe_load(settings)["MODEL"]["BACKBONE"]["NAME"] == tiny_cfg.MODEL.BACKBONE.NAME == "Patches"
    model = build_model(tiny_cfg).train()
    loader = build_detection_test_loader(ms3_records, mapper=AVSDatasetMapper(tiny_cfg, is_train=True))
    clips = [clip for batch in loader for clip in batch]
    assert clips[0]["log_mel"].shape == (5, 50)
    losses = model(clips)
    sum(losses.values()).backward()
    assert model.backbone.layers["res5"].weight.grad.abs().sum() > 0
    assert model.audio_backbone.layer.weight.grad.abs().sum() > 0
