"""The wheel, unpacked away from the checkout: what an installed transavs is made of."""

import json
import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from importlib.metadata import Distribution
from pathlib import Path

import pytest
from detectron2.modeling import build_model
from helpers.repository import REPOSITORY, TINY_MODEL
from helpers.videos import make_video

import transavs
from transavs import AVSInputError
from transavs.checkpoint.checkpointer import AVSCheckpointer
from transavs.config.load import find_config
from transavs.media.video_reader import Video


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a wheel of this checkout is unpacked into."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy: what an older build has left in the checkout would go along
    for name in ("transavs", "tools", "datasets", "configs"):
        data = shutil.ignore_patterns("synthetic", "photos", "AVSBench_*") if name == "datasets" else None
        shutil.copytree(REPOSITORY / name, source / name, ignore=data)
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
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


def run_command(
    name: str, installed: Path, *arguments: object, folder: Path | None = None, before: str = ""
) -> subprocess.CompletedProcess:
    """Run a console command of the wheel away from the checkout, as the script that pip writes for it does."""
    module, function = commands(installed)[name].split(":")
    code = f"import sys; sys.argv[0] = {name!r}; {before}\nfrom {module} import {function}; {function}()"
    environment = {key: value for key, value in os.environ.items() if key != "DETECTRON2_DATASETS"}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment | {"PYTHONPATH": str(installed)},
        cwd=folder or installed.parent,
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


def test_every_script_has_its_command(installed: Path):
    """All of tools/ and datasets/ but the file that the commands begin in."""
    found = runpy.run_path(str(installed / "transavs_tools/console.py"))["COMMANDS"]
    assert commands(installed) == dict.fromkeys(found, "transavs_tools.console:main")
    scripts = {f"transavs_{path.parent.name}.{path.stem}" for path in REPOSITORY.glob("tools/*.py")}
    scripts |= {f"transavs_{path.parent.name}.{path.stem}" for path in REPOSITORY.glob("datasets/*.py")}
    assert sorted(found.values()) == sorted(scripts - {"transavs_tools.console"})
    for module in found.values():
        assert (installed / f"{module.replace('.', '/')}.py").is_file(), module


def test_every_config_goes_along_and_types_too(installed: Path):
    assert (installed / "transavs/py.typed").is_file()
    configs = {path.relative_to(REPOSITORY) for path in REPOSITORY.glob("configs/**/*.yaml")}
    assert {path.relative_to(installed / "transavs") for path in installed.glob("transavs/**/*.yaml")} == configs


def test_the_table_of_photographs_goes_along(installed: Path, tmp_path: Path):
    done = run_command("transavs-prepare-photos", installed, "--stamps", "empty", folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "error: empty/tuxpaint/stamps/" in done.stderr


def test_the_version_is_the_package_s_and_is_found_without_torch(installed: Path):
    (metadata,) = installed.glob("*.dist-info")
    assert Distribution.at(metadata).version == transavs.__version__
    code = "import runpy, sys; sys.modules['torch'] = None; sys.argv = ['setup.py', '--version']; "
    code += "runpy.run_path('setup.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.stdout.split()[-1:] == [transavs.__version__], done.stderr


def test_without_detectron2_a_command_says_how_to_get_it(installed: Path):
    missing = "import importlib.util as u; f = u.find_spec; u.find_spec = lambda n: None if n == 'detectron2' else f(n)"
    done = run_command("transavs-demo", installed, "--help", before=missing)
    assert done.returncode == 2
    assert done.stderr == "error: detectron2 is not installed: run transavs-install-detectron2 once\n"


def test_training_finds_a_packaged_config_and_says_what_data_it_wants(installed: Path, tmp_path: Path):
    done = run_command("transavs-train", installed, "--config-file", "configs/quickstart.yaml", folder=tmp_path)
    assert done.returncode == 2, done.stderr
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: datasets/synthetic/Multi-sources/ms3_meta_data.csv does not exist: run ")
    assert "transavs-prepare-synthetic" in error


@pytest.mark.slow
def test_from_nothing_to_a_marked_video_in_an_empty_folder(installed: Path, tmp_path: Path):
    """The commands of the README's "Without a checkout", on less data with a smaller model."""
    where = f"import transavs; assert transavs.__file__.startswith({str(installed)!r})"

    def run(name: str, *arguments: object) -> None:
        done = run_command(name, installed, *arguments, folder=tmp_path, before=where)
        assert done.returncode == 0, done.stderr

    model = (*TINY_MODEL, "TEST.AUDIO_CONDITIONS", '["true"]', "OUTPUT_DIR", "output/quickstart")
    run("transavs-prepare-synthetic", "--subsets", "ms3", "--size", 32, "--clips", 4, 2, 3, "--workers", 1)
    run("transavs-train", "--config-file", "configs/quickstart.yaml", *model, "SOLVER.MAX_ITER", 2)
    results = tmp_path / "output/quickstart/results.json"
    trained = json.loads(results.read_text())
    results.unlink()
    weights = "output/quickstart/model_final.pth"
    run("transavs-train", "--config-file", "quickstart.yaml", "--eval-only", *model, "MODEL.WEIGHTS", weights)
    assert json.loads(results.read_text()) == pytest.approx(trained)
    run("transavs-prepare-video", "--output", "video.mp4", "--seconds", 1, "--size", 48, 64)
    run("transavs-demo", "--weights", weights, "--input", "video.mp4", "--output", "marked.mp4")
    assert len(list(Video(tmp_path / "marked.mp4").frames())) == 25


def test_a_file_comes_before_the_packaged_config_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("configs/cpu/s4_r18.yaml", "cpu/s4_r18.yaml"):
        assert find_config(name) == REPOSITORY / "configs/cpu/s4_r18.yaml"
        own = tmp_path / name
        own.parent.mkdir(parents=True)
        own.write_text("VERSION: 2\n")
        assert find_config(name).samefile(own)
    error = r"does not exist: name a file of your own or one of those in /.*/configs$"
    for name in ("configs/none.yaml", tmp_path / "configs/quickstart.yaml"):
        with pytest.raises(AVSInputError, match=error):
            find_config(name)


@pytest.mark.slow
def test_the_ablations_run_from_the_wheel(installed: Path, tiny_datasets: Path, tmp_path: Path):
    (tmp_path / "datasets").symlink_to(tiny_datasets)
    options = ("--seeds", 1, "--output", "output", "--", *TINY_MODEL, "SOLVER.MAX_ITER", 1)
    config = "configs/ablations/cpu/ms3_decoder_1.yaml"
    done = run_command("transavs-run-ablations", installed, "--configs", config, *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "decoder_1" in (tmp_path / "output/table.txt").read_text()
