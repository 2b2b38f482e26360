"""The wheel, unpacked away from the checkout: what an installed transavs is made of."""

import os
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest
from conftest import REPOSITORY
from detectron2.modeling import build_model
from videos import make_video

from transavs.checkpoint import AVSCheckpointer
from transavs.data.video import Video


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a wheel of this checkout is unpacked into."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy: what an older build has left in the checkout would go along
    for name in ("transavs", "tools"):
        shutil.copytree(REPOSITORY / name, source / name)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", folder, source], check=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run_command(name: str, installed: Path, *arguments: object) -> subprocess.CompletedProcess:
    """What the console command ``name`` of the wheel runs, away from the checkout."""
    (metadata,) = installed.glob("*.dist-info")
    scripts = ConfigParser()
    scripts.read(metadata / "entry_points.txt")
    module, function = scripts["console_scripts"][name].split(":")
    code = f"import {module}, transavs; assert transavs.__file__.startswith({str(installed)!r}); {module}.{function}()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(installed)},
        cwd=installed.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_demo_runs_from_the_wheel(installed: Path, tiny_cfg, tmp_path: Path):
    AVSCheckpointer(build_model(tiny_cfg), str(tmp_path), tiny_cfg).save("weights")
    video = make_video(tmp_path / "a.mp4", seconds=1)
    arguments = ("--input", video, "--output", tmp_path / "o.mp4", "--weights", tmp_path / "weights.pth")
    done = run_command("transavs-demo", installed, *arguments)
    assert done.returncode == 0, done.stderr
    assert len(list(Video(tmp_path / "o.mp4").frames())) == 25


def test_the_commands_of_the_wheel_are_there(installed: Path):
    (metadata,) = installed.glob("*.dist-info")
    scripts = ConfigParser()
    scripts.read(metadata / "entry_points.txt")
    for name, target in scripts["console_scripts"].items():
        module, function = target.split(":")
        source = (installed / f"{module.replace('.', '/')}.py").read_text()
        assert f"def {function}(" in source, name
