"""What the tests of the demo share."""

from pathlib import Path

import pytest
from detectron2.modeling import build_model

from transavs.checkpoint.checkpointer import AVSCheckpointer


@pytest.fixture
def weights(tiny_cfg, tmp_path: Path) -> Path:
    """A checkpoint of a tiny model."""
    AVSCheckpointer(build_model(tiny_cfg), str(tmp_path), tiny_cfg).save("weights")
    return tmp_path / "weights.pth"
