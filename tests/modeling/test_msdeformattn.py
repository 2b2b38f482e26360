"""Mask2Former's pixel decoder: against loops, its names and shapes, gradients, precision, training and export."""

import math
from pathlib import Path

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from helpers.models import make_backend
from helpers.msdeformattn import make_pixel_decoder, make_visual_features, randomize
from helpers.repository import TINY_MODEL
from torch import nn

from transavs import AVSInputError
from transavs.engine import AVSTrainer
from transavs.inference.export import export_model
from transavs.modeling import MSDeformAttnPixelDecoder
from transavs.modeling.transavs.msdeformattn import Levels, MSDeformAttn, paired_sine_positions

TINY_DEFORMABLE = [
    *TINY_MODEL,
    *("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "MSDeformAttnPixelDecoder", "MODEL.MSDEFORMATTN.ENC_LAYERS", "2"),
    *("MODEL.MSDEFORMATTN.NHEADS", "2", "MODEL.MSDEFORMATTN.DIM_FEEDFORWARD", "32"),
]


def read_bilinearly(image: list[list[list[float]]], x: float, y: float) -> list[float]:
    """Value at pixel coordinates of an image [row][column][channel] that is zero beyond its pixels."""
    value = [0.0] * len(image[0][0])
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < len(image) and 0 <= column < len(image[0]):
                share = (1 - abs(y - row)) * (1 - abs(x - column))
                value = [v + share * pixel for v, pixel in zip(value, image[row][column], strict=True)]
    return value


def attend_by_loops(layer: MSDeformAttn, query: torch.Tensor, tokens: torch.Tensor, sizes: list, center: tuple):
    """Eq. (3) of Zhu et al. 2021 for one query (d) at a center (x, y), tokens (Q, d) of levels of these sizes."""
    heads, levels, points = layer.shape
    offsets = layer.sampling_offsets(query).view(heads, levels, points, 2).tolist()
    weights = layer.attention_weights(query).view(heads, levels * points)
    weights = (weights.exp() / weights.exp().sum(1, keepdim=True)).view(heads, levels, points).tolist()
    values = layer.value_proj(tokens)
    attended = []
    for head in range(heads):
        total = torch.zeros(len(query) // heads)
        start = 0
        for level, (height, width) in enumerate(sizes):
            channels = values[start : start + height * width].chunk(heads, 1)[head]
            image = channels.reshape(height, width, -1).tolist()
            start += height * width
            for point in range(points):
                across, down = offsets[head][level][point]
                # In pixels of this level, the middle of the first one at 0.
                sample = read_bilinearly(image, center[0] * width + across - 0.5, center[1] * height + down - 0.5)
                total += weights[head][level][point] * torch.tensor(sample)
        attended.append(total)
    return layer.output_proj(torch.cat(attended))


def test_deformable_attention_is_its_definition():
    torch.manual_seed(0)
    layer = MSDeformAttn(dim=6, num_levels=3, num_heads=2, num_points=3)
    randomize(layer)
    sizes = [(1, 2), (2, 3), (4, 5)]
    levels = Levels.of([torch.zeros(2, 6, *size) for size in sizes])
    queries, tokens = torch.randn(2, 28, 6), torch.randn(2, 28, 6)
    centers = [((c + 0.5) / w, (r + 0.5) / h) for h, w in sizes for r in range(h) for c in range(w)]
    with torch.no_grad():
        found = layer(queries, tokens, levels)
        for frame in range(2):
            for number, center in enumerate(centers):
                expected = attend_by_loops(layer, queries[frame, number], tokens[frame], sizes, center)
                torch.testing.assert_close(found[frame, number], expected, rtol=1e-4, atol=1e-5)


def test_heads_look_around_at_the_start():
    """Each head in a direction of its own, at 1, 2, ... pixels, at every point and level alike."""
    layer = MSDeformAttn(dim=8, num_levels=2, num_heads=4, num_points=3)
    offsets = layer.sampling_offsets(torch.randn(8)).view(4, 2, 3, 2)
    directions = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    for level in range(2):
        for point in range(3):
            torch.testing.assert_close(offsets[:, level, point], directions * (point + 1))
    assert not layer.attention_weights(torch.randn(8)).any()


def test_positions_are_in_mask2formers_order():
    positions = paired_sine_positions(3, 5, 8, torch.device("cpu")).view(3, 5, 8)
    for row in range(3):
        for column in range(5):
            expected = []
            for angle in (2 * math.pi * (row + 1) / 3, 2 * math.pi * (column + 1) / 5):
                for scale in (1, 100):  # 10000 ** (2 k / 4)
                    expected += [math.sin(angle / scale), math.cos(angle / scale)]
            assert positions[row, column].tolist() == pytest.approx(expected, abs=1e-5)


def test_names_and_shapes_are_mask2formers():
    shapes = {f"res{i}": ShapeSpec(channels=2 ** (6 + i), stride=2**i) for i in (2, 3, 4, 5)}
    with torch.device("meta"):
        decoder = MSDeformAttnPixelDecoder(
            input_shape=shapes, conv_dim=256, norm="GN", num_layers=6, num_heads=8, dim_feedforward=1024, num_points=4
        )
    expected = {"transformer.level_embed": (3, 256), "mask_features.weight": (256, 256, 1, 1)}
    expected |= {"mask_features.bias": (256,)}
    for level, channels in enumerate((2048, 1024, 512)):
        expected[f"input_proj.{level}.0.weight"] = (256, channels, 1, 1)
        for name in ("0.bias", "1.weight", "1.bias"):
            expected[f"input_proj.{level}.{name}"] = (256,)
    for name, kernel in (("adapter_1", (256, 256, 1, 1)), ("layer_1", (256, 256, 3, 3))):
        expected |= {f"{name}.weight": kernel, f"{name}.norm.weight": (256,), f"{name}.norm.bias": (256,)}
    linears = {
        "self_attn.sampling_offsets": (192, 256),
        "self_attn.attention_weights": (96, 256),
        "self_attn.value_proj": (256, 256),
        "self_attn.output_proj": (256, 256),
        "linear1": (1024, 256),
        "linear2": (256, 1024),
    }
    for layer in range(6):
        for name, shape in linears.items():
            expected[f"transformer.encoder.layers.{layer}.{name}.weight"] = shape
            expected[f"transformer.encoder.layers.{layer}.{name}.bias"] = shape[:1]
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            expected[f"transformer.encoder.layers.{layer}.{name}"] = (256,)
    assert {name: tuple(value.shape) for name, value in decoder.state_dict().items()} == expected


def test_levels_come_coarse_to_fine_and_each_reaches_all():
    decoder = make_pixel_decoder().eval()
    features = make_visual_features(height=64, width=96)
    with torch.no_grad():
        mask_features, pyramid = decoder.forward_features(features)
        assert mask_features.shape == (2, 32, 16, 24)
        assert [tuple(level.shape) for level in pyramid] == [(2, 32, 2, 3), (2, 32, 4, 6), (2, 32, 8, 12)]
        for name in ("res3", "res4", "res5"):
            other_mask, other = decoder.forward_features(features | {name: torch.randn_like(features[name])})
            assert not any(torch.allclose(one, two) for one, two in zip(other, pyramid, strict=True))
            assert not torch.allclose(other_mask, mask_features)
        other_mask, other = decoder.forward_features(features | {"res2": torch.randn_like(features["res2"])})
        assert all(torch.equal(one, two) for one, two in zip(other, pyramid, strict=True))
        assert not torch.allclose(other_mask, mask_features)


def test_gradients_reach_everything():
    decoder = make_pixel_decoder()
    features = {name: value.requires_grad_() for name, value in make_visual_features(64, 64).items()}
    mask_features, pyramid = decoder.forward_features(features)
    sum((value * torch.randn_like(value)).sum() for value in (mask_features, *pyramid)).backward()
    for name, tensor in (*decoder.named_parameters(), *features.items()):
        assert tensor.grad is not None, name
        assert tensor.grad.abs().max() > 1e-6, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_places_are_exact_under_autocast(dtype: torch.dtype):
    """On a map whose values change from pixel to pixel: half a pixel off would be another value altogether."""
    torch.manual_seed(0)
    layer = MSDeformAttn(dim=4, num_levels=1, num_heads=2, num_points=2)
    with torch.no_grad():
        layer.sampling_offsets.bias.mul_(20.3)  # far away, where 16 bits have the coarsest steps
    nn.init.eye_(layer.value_proj.weight)
    nn.init.eye_(layer.output_proj.weight)
    levels = Levels.of([torch.zeros(1, 4, 96, 96)])
    tokens = torch.randint(0, 2, (1, 96 * 96, 4)).float()
    with torch.no_grad():
        expected = layer(tokens, tokens, levels)
        with torch.autocast("cpu", dtype):
            found = layer(tokens, tokens, levels)
    assert found.dtype == dtype
    assert expected.std() > 0.1
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=4e-3)


def test_channels_that_heads_do_not_divide(tiny_cfg):
    tiny_cfg.merge_from_list([*TINY_DEFORMABLE, "MODEL.MSDEFORMATTN.NHEADS", 5])
    with pytest.raises(AVSInputError, match=r"CONVS_DIM is 16 and MODEL\.MSDEFORMATTN\.NHEADS 5: set the first to"):
        build_model(tiny_cfg)


@pytest.mark.parametrize("amp", [False, True])
def test_two_iterations_move_every_parameter(tiny_cfg, tiny_catalog: None, tmp_path: Path, amp: bool):
    tiny_cfg.merge_from_list([*TINY_DEFORMABLE, "OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER", 2])
    tiny_cfg.MODEL.ACTIVATION_CHECKPOINTING = ["pixel_decoder.transformer.encoder.layers.*"]
    tiny_cfg.SOLVER.AMP.ENABLED = amp  # in bfloat16
    trainer = AVSTrainer(tiny_cfg)
    decoder = trainer.model.pixel_decoder
    groups = [group for group in trainer._trainer.optimizer.param_groups if group["weight_decay"] == 0]
    assert any(one is decoder.transformer.level_embed for group in groups for one in group["params"])
    before = {name: value.detach().clone() for name, value in decoder.named_parameters()}
    with EventStorage() as trainer.storage:
        for trainer.iter in range(2):
            trainer.run_step()
    for name, value in decoder.named_parameters():
        assert torch.isfinite(value).all(), name
        assert not torch.equal(value, before[name]), name


@pytest.mark.parametrize(("suffix", "tolerance"), [pytest.param(".pt2", 1e-6, marks=pytest.mark.slow), (".onnx", 1e-5)])
def test_it_is_exported(tmp_path: Path, suffix: str, tolerance: float):
    backend = make_backend("quickstart.yaml", TINY_DEFORMABLE)
    randomize(backend.model.pixel_decoder.transformer)
    assert export_model(backend, tmp_path / f"model{suffix}") <= tolerance
