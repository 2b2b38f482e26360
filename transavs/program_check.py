"""Whether loading a torch.export program (.pt2) would run code that somebody has put into it.

torch.export.load is not made for files of strangers. As of PyTorch 2.14 it unpickles weights that say they are pickled,
constants that are objects, example inputs, and whole files in the format of PyTorch 2.7; it evaluates the text of
symbolic sizes; and it loads compiled libraries. A program that :mod:`transavs.export` writes has none of these: its
weights are plain bytes, and its sizes are plain arithmetic. So only files of that form are let through.
"""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

from torch.export.pt2_archive import PT2ArchiveReader

from transavs.errors import AVSInputError

MEMBERS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)|models/model\.json|extra/\w+"
    r"|data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|data/sample_inputs/model\.pt"
)
PAYLOADS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
PLAIN_PAYLOAD = re.compile(r"(weight|tensor)_\d+")
# from_file maps a file of the given name into memory and can create it.
OPERATORS = re.compile(r"(?a)torch\.ops\.aten\.(?!from_file)\w+\.\w+|_operator\.(add|sub|mul|neg|floordiv|mod|getitem)")
SIZES = re.compile(r"(Symbol\('\w+', positive=True, integer=True\)|(Add|Mul|Min|Max|FloorDiv|Mod|Integer)\(|[-\d, )])+")
TREES = re.compile(r'([\[\]{}:,\s\d]|null|"(type|context|children_spec|null|\[\]|builtins\.(tuple|list|dict))")+')
NAMES = re.compile(r"(?a)[\w.,+>-]*")  # the equations of einsum among them
STRINGS = {"target": OPERATORS, "expr_str": SIZES, "in_spec": TREES, "out_spec": TREES}


def refuse_code(path: str | Path) -> None:
    """Raise an AVSInputError if a .pt2 file holds anything that would be unpickled, evaluated or linked.

    What the file's guards say is not looked at: whoever loads it must not have them checked.
    """
    with zipfile.ZipFile(path) as archive:
        if "version" in archive.namelist():
            refuse(path, "the format of PyTorch 2.7")
    reader = PT2ArchiveReader(str(path))  # the one that torch.export.load reads with
    for member in reader.get_file_names():
        if not MEMBERS.fullmatch(member):
            refuse(path, member)
    if reader.read_bytes("data/sample_inputs/model.pt"):
        refuse(path, "example inputs")
    for config in PAYLOADS:
        for name, payload in json.loads(reader.read_string(config))["config"].items():
            if payload["use_pickle"] is not False or not PLAIN_PAYLOAD.fullmatch(payload["path_name"]):
                refuse(path, f"a pickled {name}")
    model = json.loads(reader.read_string("models/model.json"))
    for field, text in strings_in({key: value for key, value in model.items() if key != "guards_code"}):
        if not STRINGS.get(field, NAMES).fullmatch(text):
            refuse(path, f"the {field or 'text'} {text[:40]!r}")


def refuse(path: str | Path, what: str) -> None:
    raise AVSInputError(f"{path} holds {what}, which loading might run: write it with tools/export_model.py")


def strings_in(value: Any, field: str = "") -> list[tuple[str, str]]:
    """All texts in what a JSON file holds, names of fields among them, each with the field that it is the value of."""
    if isinstance(value, str):
        return [(field, value)]
    if isinstance(value, dict):
        named = [entry for key, inner in value.items() for entry in strings_in(inner, key)]
        return named + [("", key) for key in value]
    if isinstance(value, list):
        return [entry for inner in value for entry in strings_in(inner, field)]
    return []
