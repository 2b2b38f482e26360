"""Files by people who mean harm. What they would run makes a folder, which must never be there."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch


class Payload:
    """Runs a function when it is unpickled."""

    def __init__(self, function: Callable, *arguments: object):
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


class Calls:
    """Calls what is built before it, by torch's own name for rebuilding tensors; perhaps sets the tensor's state."""

    def __init__(self, *arguments: object, state: object = None):
        self.arguments, self.state = arguments, state

    def __reduce__(self) -> tuple:
        return torch._utils._rebuild_tensor_v2, self.arguments, self.state


def payloads(marker: Path) -> dict[str, object]:
    """Objects whose pickles make the folder ``marker``, by what they go through."""
    code = f"__import__('os').mkdir({str(marker)!r})"
    storage = torch.zeros(4).storage()
    nested = io.BytesIO()
    torch.save(Payload(os.mkdir, str(marker)), nested, _use_new_zipfile_serialization=False)
    zipped = io.BytesIO()
    torch.save(Payload(os.mkdir, str(marker)), zipped)
    load = torch.storage._load_from_bytes
    return {
        "mkdir": Payload(os.mkdir, str(marker)),
        "system": Payload(os.system, f"mkdir {marker}"),
        "eval": Payload(eval, code),
        "exec": Payload(exec, code),
        "in a list": [torch.zeros(2), Payload(os.mkdir, str(marker))],
        "in a tensor's place": Calls(Payload(os.mkdir, str(marker)), 0, (4,), (1,), False, {}),
        "in a size": Calls(storage, 0, Payload(eval, f"({code}, (4,))[1]"), (1,), False, {}),
        "nested bytes": Payload(load, nested.getvalue()),
        "nested zip": Payload(load, zipped.getvalue()),
    }


def giants() -> dict[str, bytes]:
    """Small pickles that would take all memory or all time."""
    storage = torch.zeros(4).storage()
    huge = 2**40
    large = storage, 0, (2**17, 1, 96, 64), (6144, 6144, 64, 1)
    bombs = {
        "huge tensor": pickle.dumps(Calls(storage, 0, (huge, 1, 96, 64), (6144, 6144, 64, 1), False, {})),
        "tensor without strides": pickle.dumps(Calls(storage, 0, (huge, 1, 96, 64), (0, 0, 0, 0), False, {})),
        "offset": pickle.dumps(Calls(storage, huge, (1, 1, 96, 64), (6144, 6144, 64, 1), False, {})),
        "negative stride": pickle.dumps(Calls(storage, 3, (4,), (-1,), False, {})),
        "state": pickle.dumps(Calls(storage, 0, (4,), (1,), False, {}, state=large)),
        "storage of another kind": pickle.dumps(Calls({"dtype": 1}, 0, (4,), (1,), False, {})),
        "memo": b"\x80\x03Nr\xff\xff\xff\xff.",  # LONG_BINPUT: a place for four thousand million objects
        "length": b"\x80\x04\x8e" + (huge).to_bytes(8, "little") + b".",  # BINBYTES8 of a terabyte
        "digits": b"I" + b"9" * 100_000 + b"\n.",
        "frame": b"\x80\x04\x95" + (huge).to_bytes(8, "little") + b"N.",
    }
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(bytes(10**8), protocol=4))
        archive.writestr("archive/version", "3\n")
    bombs["deflated"] = pickle.dumps(Payload(torch.storage._load_from_bytes, zipped.getvalue()))
    return bombs
