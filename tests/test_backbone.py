"""timm backbones, and parts that a user registers."""

import re
from pathlib import Path

import pytest
import timm
import torch
import yaml
from conftest import REPOSITORY
from detectron2.data import build_detection_test_loader
from detectron2.modeling import build_model

from transavs import AVSInputError
from transavs.data import AVSDatasetMapper
from transavs.modeling import TimmBackbone


def make_backbone(name: str, **changes) -> TimmBackbone:
    torch.manual_seed(0)
    settings = {
        "name": name,
        "in_channels": 3,
        "image_size": 64,
        "out_features": ["res2", "res3", "res4", "res5"],
        "pretrained": False,
        "weights": "",
        "drop_path_rate": 0.0,
        "frozen_stages": 0,
    }
    return TimmBackbone(**(settings | changes))


NAMES = [
    *("resnet10t", "swin_tiny_patch4_window7_224", "pvt_v2_b0", "convnext_atto"),
    *("tf_efficientnet_lite0", "efficientnet_b0", "mobilenetv3_large_100"),  # keep their stages in a list
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


def test_weights_of_the_whole_timm_model_from_a_file(tmp_path: Path):
    torch.manual_seed(1)
    whole = timm.create_model("resnet10t", pretrained=False)
    torch.save(whole.state_dict(), tmp_path / "resnet10t.pth")
    backbone = make_backbone("resnet10t", weights=str(tmp_path / "resnet10t.pth"))
    assert torch.equal(backbone.body.layer3[0].conv1.weight, whole.layer3[0].conv1.weight)
    with pytest.raises(AVSInputError, match=r"MODEL\.TIMM: 'resnet10t' with weights '.*gone\.pth' cannot be built"):
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


def test_models_that_do_not_fit():
    with pytest.raises(AVSInputError, match=r"'no_such_model' .* cannot be built"):
        make_backbone("no_such_model")
    with pytest.raises(AVSInputError, match="gives no pyramid of features"):
        make_backbone("vit_tiny_patch16_224")
    with pytest.raises(AVSInputError, match=r"'twins_svt_small' does not show its stages: set FROZEN_STAGES to 0"):
        make_backbone("twins_svt_small", frozen_stages=1)


def test_the_example_of_the_docs_trains(tiny_cfg, ms3_records: list[dict], tmp_path: Path):
    text = (REPOSITORY / "docs/extending.md").read_text()
    code, settings = (re.search(rf"```{kind}\n(.*?)```", text, re.S).group(1) for kind in ("python", "yaml"))
    exec(compile(code, "my_parts.py", "exec"), {})
    (tmp_path / "mine.yaml").write_text(settings)
    tiny_cfg.merge_from_file(str(tmp_path / "mine.yaml"))
    assert yaml.safe_load(settings)["MODEL"]["BACKBONE"]["NAME"] == tiny_cfg.MODEL.BACKBONE.NAME == "Patches"
    model = build_model(tiny_cfg).train()
    loader = build_detection_test_loader(ms3_records, mapper=AVSDatasetMapper(tiny_cfg, is_train=True))
    losses = model([clip for batch in loader for clip in batch])
    sum(losses.values()).backward()
    assert model.backbone.layers["res5"].weight.grad.abs().sum() > 0
    assert model.audio_backbone.layer.weight.grad.abs().sum() > 0
