#!/usr/bin/env python
"""Install detectron2 0.6 from PyPI, or with --source another one, as a pure-Python package.

The source archive on PyPI carries the Python files of upstream's tag v0.6 without the C++ sources, so pip cannot
build it as it stands. This script has pip fetch the archive (its hash is checked before a line of it runs), mends
what current Pillow, NumPy and setuptools no longer offer, replaces the compiled operators, which transavs never
calls, by a module that says so when used, and installs the result as ``detectron2 0.6+pure``.

torch must be installed first, since the archive's own set-up imports it. A detectron2 that is already there is
left alone, unless --target names a folder to install into.

--source takes the Python files of a git checkout in place of the archive, as those of detectron2's main branch.
"""

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

REQUIREMENT = "pb1-detectron2==0.6"
SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
PROJECTS = {
    "detectron2.projects.point_rend": "projects/PointRend/point_rend",
    "detectron2.projects.deeplab": "projects/DeepLab/deeplab",
    "detectron2.projects.panoptic_deeplab": "projects/Panoptic-DeepLab/panoptic_deeplab",
}

SETUP_PY = """\
from setuptools import find_packages, setup

PROJECTS = {projects!r}
setup(
    name="detectron2",
    version={version!r},
    packages=find_packages(include=("detectron2", "detectron2.*")) + sorted(PROJECTS),
    package_dir=PROJECTS,
    python_requires=">=3.8",
    install_requires=[
        "Pillow", "matplotlib", "pycocotools", "termcolor", "yacs", "tabulate", "cloudpickle", "tqdm", "tensorboard",
        "fvcore", "iopath", "omegaconf", "hydra-core",
    ],
)
"""

COMPILED_OPERATORS_PY = '''\
"""Stands in for detectron2's compiled operators, which this pure-Python build does not have."""


def get_compiler_version():
    return "none: pure Python"


def get_cuda_version():
    return "none: pure Python"


def has_cuda():
    return False


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    raise RuntimeError(
        f"detectron2._C.{name} is a compiled operator and this detectron2 was installed without them. "
        "Uninstall it and build detectron2 from source to use it."
    )
'''


def fetch(folder: Path) -> Path:
    """Have pip download the archive into ``folder``; returns its path.

    Raises:
        SystemExit: pip failed, or the archive is not the one this script knows.
    """
    pinned = folder / "requirement.txt"
    pinned.write_text(f"{REQUIREMENT} --hash=sha256:{SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["--no-binary", ":all:", "--require-hashes", "--dest", str(folder), "--requirement", str(pinned)]
    if subprocess.run(command).returncode:
        sys.exit(f"install_detectron2: pip could not fetch {REQUIREMENT} (its own message stands above)")
    return next(folder.glob("*.tar.gz"))


def substitute(path: Path, *rules: "tuple[str, str]") -> None:
    """Apply (regular expression, replacement) rules to one file; each must match, or the archive is not as expected."""
    text = path.read_text()
    for pattern, replacement in rules:
        text, count = re.subn(pattern, replacement, text)
        if not count:
            sys.exit(f"install_detectron2: {path} holds no {pattern!r}; the archive is not the expected one")
    path.write_text(text)


def unpack(folder: Path) -> Path:
    """Fetch v0.6 and make its Python files run on current Pillow and NumPy; returns their tree in ``folder``."""
    with tarfile.open(fetch(folder)) as archive:
        archive.extractall(folder, filter="data")
    source = next(path for path in folder.iterdir() if path.is_dir())
    package = source / "detectron2"
    substitute(package / "data/transforms/transform.py", (r"Image\.LINEAR\b", "Image.BILINEAR"))
    for name in (
        "data/build.py",
        "evaluation/pascal_voc_evaluation.py",
        "evaluation/sem_seg_evaluation.py",
        "structures/masks.py",
        "utils/video_visualizer.py",
        "utils/visualizer.py",
    ):
        substitute(package / name, (r"\bnp\.(int|float|bool)\b(?!_)", r"\1"))
    return source


def copy_checkout(checkout: Path, folder: Path) -> Path:
    """Copy what is installed of a checkout of main, which pip would write into; returns the tree in ``folder``."""
    source = folder / "checkout"
    for name in ("detectron2", *PROJECTS.values()):
        shutil.copytree(checkout / name, source / name, ignore=shutil.ignore_patterns("csrc", "configs"))
    return source


def make_pure(source: Path, version: str) -> None:
    """Replace the compiled operators, and what v0.6 and main alike want of an older setuptools."""
    package = source / "detectron2"
    substitute(
        package / "model_zoo/model_zoo.py",
        (r"import pkg_resources", "from importlib import resources"),
        (
            r"pkg_resources\.resource_filename\(\s*\"detectron2\.model_zoo\",\s*(.+)\n\s*\)",
            r'str(resources.files("detectron2.model_zoo") / \1)',
        ),
    )
    (package / "_C.py").write_text(COMPILED_OPERATORS_PY)
    (source / "setup.py").write_text(SETUP_PY.format(projects=PROJECTS, version=version))
    (source / "setup.cfg").unlink(missing_ok=True)


def install(source: Path, target: Path | None) -> None:
    """pip-install the mended tree; its requirements are transavs's own, so pip resolves none here."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    if target is not None:
        command += ["--upgrade", "--target", str(target)]
    if subprocess.run([*command, str(source)]).returncode:
        sys.exit("install_detectron2: pip could not install the mended detectron2 (its own message stands above)")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--source", type=Path, metavar="CHECKOUT", help="checkout of detectron2's main branch, in place of v0.6"
    )
    parser.add_argument("--target", type=Path, metavar="FOLDER", help="folder to install into, for PYTHONPATH")
    arguments = parser.parse_args()
    if arguments.source is not None and not (arguments.source / "detectron2/__init__.py").is_file():
        parser.error(f"{arguments.source} is no checkout of detectron2: name the folder that has its setup.py")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    found = importlib.util.find_spec("detectron2")
    if found is not None and arguments.target is None:
        sys.stdout.write(f"detectron2 is already installed in {Path(found.origin).parent}; left as it is\n")
        return
    if importlib.util.find_spec("torch") is None:
        sys.exit("install_detectron2: install torch first (pip install -r requirements.txt)")
    with tempfile.TemporaryDirectory() as folder:
        if arguments.source is None:
            source, version = unpack(Path(folder)), "0.6+pure"
        else:
            source, version = copy_checkout(arguments.source, Path(folder)), "0.6+checkout.pure"
        make_pure(source, version)
        install(source, arguments.target)
    sys.stdout.write(f"installed detectron2 {version}\n")


if __name__ == "__main__":
    main()
