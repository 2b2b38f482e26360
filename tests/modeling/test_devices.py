"""Faults that only a GPU would show, found without one: tensors of a GPU that have shapes and no values."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from helpers.repository import ENCODER_ONLY, REPOSITORY, TINY_MODEL
from torch._subclasses.fake_tensor import FakeTensorMode

from transavs import AVSPredictor
from transavs.config.load import load_config
from transavs.engine.solver import build_optimizer
from transavs.inference.backends import ClipFormat, PyTorchBackend
from transavs.modeling.optimize import optimize_for_inference

GPU = torch.device("cuda", 0)
MODELS = {
    "TransAVS": ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "4"],
    "MSDeformAttn": ["MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "MSDeformAttnPixelDecoder"],
    "EncoderTransAVS": ENCODER_ONLY,
    "TPAVI": [*("MODEL.META_ARCHITECTURE", "TPAVI", "MODEL.TPAVI.HEAD_CHANNELS", "[8, 8]", "MODEL.TPAVI.WINDOW", "2")],
}


@pytest.fixture(autouse=True)
def fake_tensors() -> Iterator[None]:
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


@pytest.fixture(params=MODELS)
def cfg(request: pytest.FixtureRequest):
    overrides = [*TINY_MODEL, *MODELS[request.param], "MODEL.DEVICE", "cuda", "MODEL.TPAVI.AVM_WEIGHT", "1.0"]
    return load_config(REPOSITORY / "configs/quickstart.yaml", overrides)


def clips() -> list[dict]:
    """Two clips as a loader gives them, on the CPU."""
    masks = torch.zeros(2, 32, 32, dtype=torch.int64)
    truth = {"masks": masks, "objects": masks, "labeled_frames": torch.arange(2), "height": 40, "width": 30}
    images = torch.zeros(5, 3, 32, 32, dtype=torch.uint8)
    return [{"images": images, "log_mel": torch.zeros(5, 1, 96, 64), **truth} for _ in range(2)]


def test_a_training_step_stays_on_the_gpu(cfg):
    model = build_model(cfg).train()
    optimizer = build_optimizer(cfg, model)
    with EventStorage():
        losses = model(clips())
    assert {loss.device for loss in losses.values()} == {GPU}
    sum(losses.values()).backward()
    optimizer.step()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert {gradient.device for gradient in gradients} == {GPU}


def test_inference_stays_on_the_gpu(cfg):
    model = optimize_for_inference(build_model(cfg))
    with torch.no_grad():
        outputs = model(clips())
    classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    found = [(output["sem_seg"].device, tuple(output["sem_seg"].shape)) for output in outputs]
    assert found == [(GPU, (5, classes, 40, 30))] * 2


def test_the_predictor_hands_over_to_the_gpu_and_back(cfg):
    model = optimize_for_inference(build_model(cfg))
    classes = [str(number) for number in range(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)]
    predictor = AVSPredictor(PyTorchBackend(model, ClipFormat.from_config(cfg, classes, model)))
    frames = [np.zeros((20, 30, 3), np.uint8)] * 7
    found = predictor.predict(frames, np.zeros(7 * 16000, np.float32), 16000)
    assert [frame.probabilities.device.type for frame in found] == ["cpu"] * 7
