"""The rooms of the house: none imports one above it, so that each can be read without those above."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.repository import REPOSITORY

PACKAGE = REPOSITORY / "transavs"
# From the ground up.
FLOORS = [
    *("utils", "media", "data", "evaluation", "modeling", "config", "checkpoint"),
    *("inference", "visualization", "engine", "analysis", "demo"),
]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def climbs(path: Path, room: str) -> list[str]:
    """What a file of a room imports of the rooms above it."""
    above = FLOORS[FLOORS.index(room) + 1 :]
    return sorted({name for name in imports(path) if name.startswith("transavs.") and name.split(".")[1] in above})


def test_every_module_lies_in_a_room():
    assert [path.name for path in PACKAGE.glob("*.py")] == ["__init__.py"]
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(FLOORS)


@pytest.mark.parametrize("room", FLOORS)
def test_no_room_imports_one_above_it(room: str):
    found = {str(path.relative_to(REPOSITORY)): climbs(path, room) for path in (PACKAGE / room).rglob("*.py")}
    assert not {path: names for path, names in found.items() if names}


def test_a_climb_is_found(tmp_path: Path):
    (tmp_path / "a.py").write_text("import transavs.utils.errors\nfrom transavs import demo\n")
    assert climbs(tmp_path / "a.py", "data") == ["transavs.demo"]


def test_tests_mirror_the_rooms_and_import_no_other_test():
    folders = {path.parent.name for path in (REPOSITORY / "tests").glob("*/test_*.py")}
    assert folders <= {*FLOORS, "tools"}
    for path in (REPOSITORY / "tests").rglob("test_*.py"):
        assert not [name for name in imports(path) if name.split(".")[-1].startswith("test_") and "." not in name], path
