"""The small tools, in processes of their own."""

from pathlib import Path

from helpers.repository import run_tool
from PIL import Image


def test_prepare_synthetic(tmp_path: Path):
    options = ("--subsets", "ms3", "--clips", "2", "0", "1", "--size", "48")
    done = run_tool("datasets/prepare_synthetic.py", *options, DETECTRON2_DATASETS=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "100%" in done.stderr
    frames = sorted((tmp_path / "synthetic/Multi-sources/ms3_data/visual_frames").glob("*/*.png"))
    assert len(frames) == 15
    with Image.open(frames[0]) as image:
        assert image.size == (48, 48)


def test_an_existing_detectron2_is_left_alone():
    done = run_tool("tools/install_detectron2.py")
    assert done.returncode == 0, done.stderr
    assert "already installed" in done.stdout
