"""Files out of Debian's packages, fetched and unpacked with Debian's own tools; nothing is installed."""

import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

from transavs.utils.atomic_files import write_file
from transavs.utils.errors import AVSInputError

TOOLS = ("apt-get", "dpkg-deb")
SHARED = "./usr/share/"  # the folder of a package that names are relative to


def fetch_shared_files(package: str, names: Iterable[str], folder: Path) -> None:
    """Fetch the files that a package has under ``names``, and the one that tells its copyright; no others.

    Args:
        package: name of the package.
        names: relative to /usr/share; where all are there already nothing is fetched.
        folder: to put them into, under the same names.

    Raises:
        AVSInputError: there is no apt-get or dpkg-deb, it fails, or the folder cannot be written.
    """
    missing = {name for name in names if not (folder / name).is_file()}
    if not missing:
        return
    if lacking := [tool for tool in TOOLS if shutil.which(tool) is None]:
        raise AVSInputError(
            f"{package} is a package of Debian and Ubuntu, and there is no {' and no '.join(lacking)} here to get it "
            "with: unpack it elsewhere and name its folder usr/share with --stamps"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as scratch:
        done = subprocess.run(["apt-get", "download", package], cwd=scratch, stderr=subprocess.PIPE, text=True)
        archives = list(Path(scratch).glob("*.deb"))
        if done.returncode or not archives:
            told = (done.stderr.strip().splitlines() or ["no file came"])[-1]
            raise AVSInputError(f"apt-get cannot download {package} ({told}): call apt-get update, or see the network")
        _unpack(archives[0], missing | {f"doc/{package}/copyright"}, folder)


def _unpack(archive: Path, names: set[str], folder: Path) -> None:
    """Write the plain files of these names; whatever else a package holds is passed over, and what leads out of it."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE) as process:
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as files:
                for member in files:
                    name = member.name.removeprefix(SHARED)
                    wanted = member.isfile() and name in names and ".." not in Path(name).parts
                    content = files.extractfile(member) if wanted else None
                    if content is not None:
                        write_file(folder / name, content.read())
        except tarfile.TarError as error:
            raise AVSInputError(f"{archive.name} cannot be unpacked ({error}): fetch it again") from error
