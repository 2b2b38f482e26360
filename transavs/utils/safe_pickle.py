"""Pickles of one tensor, as ``pickle.dumps(tensor)`` makes them, read so that nothing in them is run."""

import io
import pickle
from typing import Any

import torch
from torch import Tensor

ZIP_MAGIC = b"PK"


def load_tensor(content: bytes) -> Tensor:
    """Read the tensor in a pickle.

    Raises:
        pickle.UnpicklingError, ValueError, ...: it is broken, or holds anything else; nearly any exception.
    """
    found = _TensorUnpickler(io.BytesIO(content)).load()
    if not isinstance(found, Tensor):
        raise pickle.UnpicklingError(f"it holds a {type(found).__name__}")
    return found


# In Python, which keeps its memo in a dict: C's takes as much memory as a pickle tells it to.
class _TensorUnpickler(pickle._Unpickler):
    """Rebuilds tensors and refuses every other global."""

    # BUILD sets the state of a tensor, and with it any size; pickled tensors have none.
    dispatch = {code: load for code, load in pickle._Unpickler.dispatch.items() if code != pickle.BUILD[0]}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return _load_storage
        if (module, name) == ("collections", "OrderedDict"):
            return _no_hooks
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _load_storage(content: bytes) -> torch.TypedStorage:
    if content.startswith(ZIP_MAGIC):  # which a pickled tensor never holds, and which may unpack to any size
        raise pickle.UnpicklingError("it has a zip archive for a storage")
    storage = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if not isinstance(storage, torch.TypedStorage):
        raise pickle.UnpicklingError(f"it has a {type(storage).__name__} for a storage")
    return storage


def _rebuild_tensor(
    storage: torch.TypedStorage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *about: object
) -> Tensor:
    """Rebuild a tensor within its storage; torch's own function would grow a storage that is too small."""
    plain = storage._untyped_storage  # its public name warns
    values = plain.nbytes() // storage.dtype.itemsize
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if min((offset, *size, *stride)) < 0 or last >= values or torch.Size(size).numel() > values:
        raise pickle.UnpicklingError(f"it has a tensor of {size} in a storage of {values}")
    return torch.tensor([], dtype=storage.dtype).set_(plain, offset, size, stride)


def _no_hooks() -> dict[str, object]:
    """Stand for the hooks of a tensor's gradient, of which a pickle has none."""
    return {}
