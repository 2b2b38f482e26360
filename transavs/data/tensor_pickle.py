"""Pickles of one tensor, as ``pickle.dumps(tensor)`` makes them, read so that a hostile one can do nothing else."""

import io
import pickle
import pickletools
import re
from itertools import islice
from typing import Any

import torch
from torch import Tensor

# What Python from 3.4 on writes for a tensor and its storage. Nothing here refers back to what came before: a few such
# references make tuples whose hash takes years, and a memo may be told to take all memory.
OPCODES = re.compile(
    r"PROTO|FRAME|STOP|MARK|(STACK_)?GLOBAL|REDUCE|BINPERSID|BINPUT|MEMOIZE|NONE|NEWTRUE|NEWFALSE|BININT[12]?|LONG1"
    r"|(SHORT_)?BINUNICODE|(SHORT_)?BINBYTES|EMPTY_(TUPLE|LIST|DICT)|TUPLE[123]?|APPENDS?|SETITEMS?"
)
MOST_OPCODES = 200  # of one pickle; a tensor's has 50
STORAGE_PICKLES = 5  # that torch.save's old format begins with: magic number, version, machine, storage, keys


def load_tensor(content: bytes) -> Tensor:
    """The tensor in a pickle.

    Raises:
        pickle.UnpicklingError, ValueError, ...: it is broken, or holds anything else; nearly any exception.
    """
    _refuse_tricks(io.BytesIO(content), 1)
    found = _TensorUnpickler(io.BytesIO(content)).load()
    if not isinstance(found, Tensor):
        raise pickle.UnpicklingError(f"it holds a {type(found).__name__}")
    return found


def _refuse_tricks(stream: io.BytesIO, pickles: int) -> None:
    """Raise an error if one of the pickles that follow each other has more in it than a tensor calls for."""
    for _ in range(pickles):
        last = ""
        for opcode, _, _ in islice(pickletools.genops(stream), MOST_OPCODES):
            last = opcode.name
            if not OPCODES.fullmatch(last):
                raise pickle.UnpicklingError(f"it asks for {last}, which no tensor needs")
        if last != "STOP":
            raise pickle.UnpicklingError(f"it has more than the {MOST_OPCODES} steps of a tensor")


class _TensorUnpickler(pickle.Unpickler):
    """Rebuilds tensors and refuses every other global."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return _load_storage
        if (module, name) == ("collections", "OrderedDict"):
            return _no_hooks
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _load_storage(content: bytes) -> torch.TypedStorage:
    # The format of its own time; the zip format, which may hold a thousand times its size, was never used here.
    _refuse_tricks(io.BytesIO(content), STORAGE_PICKLES)
    storage = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if not isinstance(storage, torch.TypedStorage):
        raise pickle.UnpicklingError(f"it has a {type(storage).__name__} for a storage")
    return storage


def _rebuild_tensor(
    storage: torch.TypedStorage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *about: object
) -> Tensor:
    """As torch's, which would make a storage larger that is too small for the tensor, of any size."""
    plain = storage._untyped_storage  # its public name warns
    values = plain.nbytes() // storage.dtype.itemsize
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if min((offset, *size, *stride)) < 0 or last >= values or torch.Size(size).numel() > values:
        raise pickle.UnpicklingError(f"it has a tensor of {size} in a storage of {values}")
    return torch.tensor([], dtype=storage.dtype).set_(plain, offset, size, stride)


def _no_hooks() -> dict[str, object]:
    """The hooks of a tensor's gradient, of which a pickle has none."""
    return {}
