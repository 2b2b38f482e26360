"""Faults that only a GPU would show, found without one: tensors of a GPU that have shapes and no values.

An operation on tensors of two devices fails there as it would on the GPU, unless one is a single number on the CPU.
Backward passes and autocast are left out: torch has them on a real card alone.
"""

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from helpers.repository import ENCODER_ONLY, REPOSITORY, TINY_MODEL
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from transavs import AVSPredictor
from transavs.config.load import load_config
from transavs.inference.backends import ClipFormat, PyTorchBackend
from transavs.modeling.meta_arch import AVSModel
from transavs.modeling.optimize import optimize_for_inference

GPU = torch.device("cuda", 0)
SEMANTIC = ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "4"]
TPAVI = ["MODEL.META_ARCHITECTURE", "TPAVI", "MODEL.TPAVI.HEAD_CHANNELS", "[8, 8]", "MODEL.TPAVI.AVM_WEIGHT", "1.0"]
MODELS = {
    "TransAVS": [],
    "TransAVS, semantic": SEMANTIC,
    "MSDeformAttn": ["MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "MSDeformAttnPixelDecoder"],
    "EncoderTransAVS": ENCODER_ONLY,
    "TPAVI": TPAVI,
    "TPAVI, semantic": [*TPAVI, *SEMANTIC],
}


@pytest.fixture(params=MODELS)
def cfg(request: pytest.FixtureRequest) -> CfgNode:
    return load_config(REPOSITORY / "configs/quickstart.yaml", [*TINY_MODEL, *MODELS[request.param]])


@pytest.fixture
def fakes() -> FakeTensorMode:
    return FakeTensorMode(allow_non_fake_inputs=True)


def put_on_gpu(model: nn.Module) -> None:
    """Do as ``model.to(GPU)`` would, which cannot swap fake tensors in: parameters and buffers, and nothing else."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            values = torch.empty_like(parameter, device=GPU)
            module.register_parameter(name, nn.Parameter(values, parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty_like(buffer, device=GPU))


def clips() -> list[dict]:
    """Two clips as a loader gives them, on the CPU."""
    masks = torch.zeros(2, 32, 32, dtype=torch.int64)
    truth = {"masks": masks, "objects": masks, "labeled_frames": torch.arange(2), "height": 40, "width": 30}
    images = torch.zeros(5, 3, 32, 32, dtype=torch.uint8)
    return [{"images": images, "log_mel": torch.zeros(5, 1, 96, 64), **truth} for _ in range(2)]


def test_losses_are_computed_on_the_gpu(cfg: CfgNode, fakes: FakeTensorMode):
    model = build_model(cfg).train()
    with fakes, EventStorage():
        put_on_gpu(model)
        losses = model(clips())
    assert {name: loss.device for name, loss in losses.items()} == dict.fromkeys(losses, GPU)
    assert all(loss.requires_grad and not loss.shape for loss in losses.values())


def test_probabilities_are_computed_on_the_gpu(cfg: CfgNode, fakes: FakeTensorMode):
    model = optimize_for_inference(build_model(cfg))
    with fakes, torch.no_grad():
        put_on_gpu(model)
        outputs = model(clips())
    found = [(output["sem_seg"].device, tuple(output["sem_seg"].shape)) for output in outputs]
    assert found == [(GPU, (5, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, 40, 30))] * 2


class FakeGPUBackend(PyTorchBackend):
    """Runs its model on the fake GPU and gives probabilities of the shape that came back, all alike."""

    def __init__(self, model: AVSModel, clip_format: ClipFormat, fakes: FakeTensorMode):
        super().__init__(model, clip_format)
        self.fakes = fakes
        self.came_back: list[tuple[str, torch.dtype]] = []
        with fakes:
            put_on_gpu(model)

    def __call__(self, images: Tensor, log_mel: Tensor) -> Tensor:
        # Without its inference mode, under which torch asks the driver for memory.
        with self.fakes, torch.no_grad():
            fake = PyTorchBackend.__call__.__wrapped__(self, images, log_mel)
        self.came_back.append((fake.device.type, fake.dtype))
        return torch.full(tuple(fake.shape), 1 / fake.shape[-3])


def test_the_predictor_hands_clips_to_the_gpu_and_takes_probabilities_back(cfg: CfgNode, fakes: FakeTensorMode):
    model = optimize_for_inference(build_model(cfg))
    classes = [str(number) for number in range(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)]
    backend = FakeGPUBackend(model, ClipFormat.from_config(cfg, classes, model), fakes)
    frames = [np.zeros((20, 30, 3), np.uint8)] * 7
    found = AVSPredictor(backend).predict(frames, np.zeros(7 * 16000, np.float32), 16000)
    assert backend.came_back == [("cpu", torch.float32)] * 2
    assert [tuple(frame.probabilities.shape) for frame in found] == [(len(classes), 32, 32)] * 7
