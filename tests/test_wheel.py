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

from transavs.checkpointer import AVSCheckpointer
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


def commands(installed: Path) -> dict[str, str]:
    """What each console command calls, "module:function"."""
    (metadata,) = installed.glob("*.dist-info")
    scripts = ConfigParser()
    scripts.read(metadata / "entry_points.txt")
    return dict(scripts["console_scripts"])


def run_command(name: str, installed: Path, *arguments: object, before: str = "") -> subprocess.CompletedProcess:
    """Run a console command of the wheel away from the checkout, as the script that pip writes for it does."""
    module, function = commands(installed)[name].split(":")
    code = f"import sys; sys.argv[0] = {name!r}; {before}\nfrom {module} import {function}; {function}()"
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
    where = f"import transavs; assert transavs.__file__.startswith({str(installed)!r})"
    done = run_command("transavs-demo", installed, *arguments, before=where)
    assert done.returncode == 0, done.stderr
    assert len(list(Video(tmp_path / "o.mp4").frames())) == 25


def test_every_command_has_its_tool(installed: Path):
    for name in commands(installed):
        tool = name.removeprefix("transavs-").replace("-", "_")
        assert (installed / f"transavs_tools/{tool}.py").is_file(), name


def test_without_detectron2_a_command_says_how_to_get_it(installed: Path):
    missing = "import importlib.util as u; f = u.find_spec; u.find_spec = lambda n: None if n == 'detectron2' else f(n)"
    done = run_command("transavs-demo", installed, "--help", before=missing)
    assert done.returncode == 2
    assert done.stderr == "error: detectron2 is not installed: run transavs-install-detectron2 once\n"
