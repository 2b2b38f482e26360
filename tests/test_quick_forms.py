"""Convolutions in fewer multiplications against the plain ones, in double precision."""

import copy
from pathlib import Path

import pytest
import torch
from detectron2.layers import Conv2d
from detectron2.modeling import build_model
from torch import nn
from torch.nn import functional as F

from transavs.config import load_config
from transavs.modeling.enlarged import EnlargedConv2d
from transavs.modeling.fusion_decoder import DilatedSum
from transavs.modeling.inference import optimize_for_inference
from transavs.modeling.quick_forms.base import QuickForm
from transavs.modeling.quick_forms.enlarged import QuickEnlargedConv2d
from transavs.modeling.quick_forms.spectral import SpectralDilatedSum
from transavs.modeling.quick_forms.winograd import WinogradConv2d, minimal_filtering, takes

TPAVI_R50 = Path(__file__).parents[1] / "configs/tpavi/s4_r50.yaml"


@pytest.fixture(autouse=True)
def no_gradients():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def assert_equal_to_rounding(form: QuickForm, *shape: int) -> None:
    """The short way, taken whether it pays or not, and the layer in float64."""
    features = torch.randn(*shape)
    found = form.compute(features.permute(0, 2, 3, 1).contiguous()).permute(0, 3, 1, 2)
    expected = copy.deepcopy(form.direct).double()(features.double())
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 3e-5 * expected.std()
    torch.testing.assert_close(form(features), expected.float(), rtol=0, atol=1e-4 * expected.std().item())


def test_minimal_filtering_is_a_correlation():
    output, taps, inputs = minimal_filtering()
    pixels, filters = torch.randn(6, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    found = output @ ((taps @ filters) * (inputs @ pixels))
    expected = torch.stack([pixels[place : place + 3] @ filters for place in range(4)])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 24, 24), (7, 25, 31), (3, 70, 26), (20, 4, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_winograd(shape: tuple[int, int, int], bias: bool):
    frames, height, width = shape
    form = WinogradConv2d(nn.Conv2d(128, 130, 3, padding=1, bias=bias))
    assert_equal_to_rounding(form, frames, 128, height, width)


def test_winograd_keeps_what_follows_the_convolution():
    layer = Conv2d(128, 128, 3, padding=1, norm=nn.GroupNorm(4, 128), activation=F.relu_)
    nn.init.normal_(layer.norm.bias)
    form = WinogradConv2d(layer)
    assert_equal_to_rounding(form, 2, 128, 24, 24)
    assert form(torch.randn(1, 128, 24, 24)).min() == 0


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(128, 128, 3),
        nn.Conv2d(128, 128, 1),
        nn.Conv2d(128, 128, 5, padding=1),
        nn.Conv2d(128, 128, 3, padding=1, stride=2),
        nn.Conv2d(128, 128, 3, padding=2, dilation=2),
        nn.Conv2d(128, 128, 3, padding=1, groups=2),
        nn.Conv2d(128, 128, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(8, 128, 3, padding=1),
        EnlargedConv2d(128, 128, align_corners=True),
        nn.Linear(128, 128),
    ],
    ids=repr,
)
def test_winograd_is_for_plain_convolutions(layer: nn.Module):
    assert not takes(layer)
    assert takes(nn.Conv2d(128, 128, 3, padding=1))
    assert takes(Conv2d(128, 128, 3, padding=1, activation=F.relu))


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("shape", [(2, 6, 9, 20), (1, 5, 1, 3), (3, 4, 40, 17)])
def test_enlarged_convolutions(align_corners: bool, shape: tuple[int, int, int, int]):
    layer = EnlargedConv2d(shape[1], 7, align_corners=align_corners)
    assert_equal_to_rounding(QuickEnlargedConv2d(layer), *shape)


@pytest.mark.parametrize("dilations", [(3, 6, 12, 18), (2, 4), (1,), (1, 2, 5)])
@pytest.mark.parametrize("size", [(56, 56), (13, 22), (7, 4), (1, 9)])
def test_dilated_sums(dilations: tuple[int, ...], size: tuple[int, int]):
    layer = DilatedSum(5, 6, dilations)
    for convolution in layer.convolutions:
        nn.init.normal_(convolution.weight)
    assert_equal_to_rounding(SpectralDilatedSum(layer), 3, 5, *size)


def test_frames_do_not_depend_on_their_company():
    forms = [
        WinogradConv2d(nn.Conv2d(128, 128, 3, padding=1)),
        SpectralDilatedSum(DilatedSum(128, 4, (3, 6, 12, 18))),
        QuickEnlargedConv2d(EnlargedConv2d(128, 4, align_corners=True)),
    ]
    features = torch.randn(6, 128, 40, 40)
    for form in forms:
        assert form.pays(*features.shape)
        together = form(features)
        alone = torch.cat([form(frame) for frame in features.split(1)])
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-4 * together.std().item())


@pytest.mark.parametrize(
    "form",
    [WinogradConv2d(nn.Conv2d(128, 128, 3, padding=1)), SpectralDilatedSum(DilatedSum(128, 4, (3, 6)))],
    ids=lambda form: type(form).__name__,
)
def test_small_maps_other_types_and_graphs_get_the_layer_itself(form: QuickForm):
    small, large = torch.randn(1, 128, 5, 5), torch.randn(1, 128, 40, 40)
    assert torch.equal(form(small), form.direct(small))
    assert form.pays(*large.shape)
    assert not torch.equal(form(large), form.direct(large))
    with torch.autocast("cpu"):
        assert torch.equal(form(large), form.direct(large))
    double = copy.deepcopy(form).double()
    assert torch.equal(double(large.double()), double.direct(large.double()))
    graph = torch.export.export(form.eval(), (large,)).graph
    called = {str(node.target) for node in graph.nodes if node.op == "call_function"}
    assert any("conv2d" in name for name in called)
    assert not any("bmm" in name for name in called)


def test_the_whole_network_stays_the_same():
    model = build_model(load_config(TPAVI_R50, ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""])).eval()
    for block in model.blocks.values():  # as after training
        nn.init.normal_(block.output_norm.weight)
        nn.init.normal_(block.output_norm.bias)
        nn.init.uniform_(block.output_norm.running_var, 0.5, 2)
    images, audio = torch.randn(1, 5, 3, 96, 96), torch.rand(1, 5, 128)
    expected = model.segment(images, audio)
    found = optimize_for_inference(model).segment(images, audio)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * expected.std().item())
    assert torch.equal(optimize_for_inference(model).segment(images, audio), found)  # once is as good as twice
    kinds = {type(module) for module in model.modules() if isinstance(module, QuickForm)}
    assert kinds == {WinogradConv2d, SpectralDilatedSum, QuickEnlargedConv2d}
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
