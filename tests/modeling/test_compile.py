"""Graphs: a model's scores are computed in one, so torch.compile and CUDA graphs have nothing to split."""

import pytest
import torch
from detectron2.modeling import build_model
from helpers.repository import ENCODER_ONLY, REPOSITORY, TINY_MODEL

from transavs.config.load import load_config
from transavs.inference.backends import ClipFormat
from transavs.inference.export import random_clips

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
