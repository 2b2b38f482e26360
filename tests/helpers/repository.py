"""The checkout, a model small enough for tests, and its tools in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
TINY_MODEL = [
    *("MODEL.DEVICE", "cpu", "INPUT.IMAGE_SIZE", "32", "DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "2"),
    *("MODEL.RESNETS.BASIC_CHANNELS", "[8, 12, 16, 24]", "MODEL.AUDIO_BACKBONE.SMALL_CHANNELS", "[4, 4, 8, 8]"),
    *("MODEL.SEM_SEG_HEAD.CONVS_DIM", "16", "MODEL.TRANSAVS.HIDDEN_DIM", "16"),
    *("MODEL.TRANSAVS.NUM_OBJECT_QUERIES", "5", "MODEL.TRANSAVS.DIM_FEEDFORWARD", "32"),
]

# Settings that make the model of TINY_MODEL an EncoderTransAVS.
ENCODER_ONLY = [
    *("MODEL.META_ARCHITECTURE", "EncoderTransAVS", "MODEL.BACKBONE.NAME", "build_query_vit_backbone"),
    *("MODEL.TIMM.NAME", "test_vit", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "64", "MODEL.TRANSAVS.HIDDEN_DIM", "64"),
]


def read_metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def run_tool(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=REPOSITORY, timeout=300, env=os.environ | environment
    )
