"""Graphs: a model's scores are computed in one, so torch.compile and CUDA graphs have nothing to split.

In training, MODEL.COMPILE makes one of the network.
"""

import copy

import pytest
import torch
from detectron2.modeling import build_model
from helpers.loud_model import LoudModel
from helpers.repository import ENCODER_ONLY, REPOSITORY, TINY_MODEL
from torch._dynamo.utils import counters

from transavs import AVSInputError
from transavs.config.load import load_config
from transavs.inference.backends import ClipFormat
from transavs.inference.export import random_clips
from transavs.modeling.compilation import compile_network

MODELS = {
    "TransAVS": ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "4"],
    "EncoderTransAVS": ENCODER_ONLY,
    # Windows that are shorter than the clip and do not divide it.
    "TPAVI": [*("MODEL.META_ARCHITECTURE", "TPAVI", "MODEL.TPAVI.HEAD_CHANNELS", "[8, 8]", "MODEL.TPAVI.WINDOW", "2")],
}


@pytest.mark.parametrize("name", MODELS)
def test_scoring_clips_is_one_graph(name: str):
    torch.manual_seed(0)
    cfg = load_config(REPOSITORY / "configs/quickstart.yaml", [*TINY_MODEL, *MODELS[name]])
    model = build_model(cfg).eval()
    classes = [str(number) for number in range(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)]
    clips = random_clips(ClipFormat.from_config(cfg, classes, model), 2)
    torch.compiler.reset()
    with torch.no_grad():
        compiled = torch.compile(model.forward_tensors, fullgraph=True, backend="eager")(*clips)
        torch.testing.assert_close(compiled, model.forward_tensors(*clips))


def training_clip(seconds: int, labeled: int) -> dict:
    """A clip with random frames and sound, of which the first frames are labeled."""
    generator = torch.Generator().manual_seed(seconds)
    masks = torch.zeros(labeled, 32, 32, dtype=torch.int64)
    masks[:, 4:20, 8:24] = 1
    images = torch.randint(256, (seconds, 3, 32, 32), generator=generator, dtype=torch.uint8)
    log_mel = torch.randn(seconds, 1, 96, 64, generator=generator)
    return {
        "images": images,
        "log_mel": log_mel,
        "masks": masks,
        "objects": masks,
        "labeled_frames": torch.arange(labeled),
    }


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("name", MODELS)
def test_training_takes_two_graphs_whatever_the_lengths(name: str, backend: str):
    """Losses, gradients and names stay; the second graph, of other lengths, fits all that follow."""
    torch.manual_seed(0)
    settings = [*TINY_MODEL, *MODELS[name], "MODEL.TRANSAVS.DEC_LAYERS", "1", "MODEL.COMPILE", backend]
    cfg = load_config(REPOSITORY / "configs/quickstart.yaml", settings)
    model = build_model(cfg).train()
    other = copy.deepcopy(model)
    compile_network(other, cfg.MODEL.COMPILE)
    assert other.state_dict().keys() == model.state_dict().keys()
    torch.compiler.reset()
    counters.clear()
    for lengths in (((4, 2), (4, 2)), ((4, 2), (4, 2)), ((5, 3), (6, 2)), ((7, 3), (3, 1)), ((8, 2), (2, 2))):
        losses, compiled = (each([training_clip(*length) for length in lengths]) for each in (model, other))
        torch.testing.assert_close(compiled, losses)
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]
    for each in (losses, compiled):
        sum(each.values()).backward()
    gradients = [[p.grad for p in each.parameters() if p.grad is not None] for each in (other, model)]
    torch.testing.assert_close(*gradients)
    with torch.no_grad():  # evaluation is as it was
        clip = training_clip(3, 1) | {"height": 32, "width": 32}
        found, expected = (each.eval()([clip])[0]["sem_seg"] for each in (other, model))
    torch.testing.assert_close(found, expected)  # batch norms have seen the same to rounding
    assert counters["stats"]["unique_graphs"] == 2


def test_what_cannot_be_compiled_says_so(tiny_cfg):
    with pytest.raises(AVSInputError, match=r"^MODEL.COMPILE: LoudModel does not name its network: set it to ''$"):
        compile_network(LoudModel(tiny_cfg), "eager")
    both = ["MODEL.COMPILE", "eager", "MODEL.ACTIVATION_CHECKPOINTING", "['backbone.*']"]
    with pytest.raises(AVSInputError, match=r"^MODEL.COMPILE and MODEL.ACTIVATION_CHECKPOINTING exclude each other"):
        load_config(REPOSITORY / "configs/quickstart.yaml", both)
