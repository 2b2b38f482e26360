"""The small tools, in processes of their own."""

import subprocess
import sys
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


def test_a_checkout_of_detectron2_is_installed_without_compiled_operators(tmp_path: Path):
    """One as small as can be, into a folder for PYTHONPATH; the checkout stays as it is."""
    checkout, target = tmp_path / "checkout", tmp_path / "target"
    zoo = 'import pkg_resources\nFILE = pkg_resources.resource_filename(\n    "detectron2.model_zoo", "a.yaml"\n)\n'
    files = {"detectron2/__init__.py": "", "detectron2/model_zoo/__init__.py": "", "setup.py": "1 / 0"}
    files |= {"detectron2/model_zoo/model_zoo.py": zoo, "detectron2/projects/__init__.py": ""}
    for project in ("PointRend/point_rend", "DeepLab/deeplab", "Panoptic-DeepLab/panoptic_deeplab"):
        files[f"projects/{project}/__init__.py"] = ""
    for name, text in files.items():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text(text)
    done = run_tool("tools/install_detectron2.py", "--source", str(checkout), "--target", str(target))
    assert done.returncode == 0, done.stderr
    assert {str(path.relative_to(checkout)) for path in checkout.rglob("*") if path.is_file()} == set(files)
    code = (
        "from detectron2 import _C\nfrom detectron2.model_zoo.model_zoo import FILE\n"
        "from detectron2.projects import deeplab, panoptic_deeplab, point_rend\n"
        "print(FILE, _C.has_cuda(), deeplab.__file__)\n_C.nms_rotated"
    )
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(target)}, capture_output=True, text=True)
    package = target / "detectron2"
    assert done.stdout.split() == [f"{package}/model_zoo/a.yaml", "False", f"{package}/projects/deeplab/__init__.py"]
    assert "detectron2._C.nms_rotated is a compiled operator" in done.stderr


def test_a_folder_that_is_no_checkout_is_named(tmp_path: Path):
    done = run_tool("tools/install_detectron2.py", "--source", str(tmp_path), "--target", str(tmp_path / "target"))
    assert done.returncode == 2
    assert f"{tmp_path} is no checkout of detectron2" in done.stderr
