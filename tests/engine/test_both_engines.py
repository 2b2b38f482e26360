"""transavs uses nothing of detectron2 that the installed one lacks, unless hasattr asks for it.

Run it on both engines, v0.6 and main: docs/install.md.
"""

import ast
import inspect
import pkgutil
import textwrap
from functools import cache
from pathlib import Path

from helpers.repository import REPOSITORY

# Attributes that hold detectron2's objects, which no import tells.
HELD = {
    "self._trainer": "detectron2.engine.SimpleTrainer",
    "self.trainer": "detectron2.engine.TrainerBase",
    "self.trainer.storage": "detectron2.utils.events.EventStorage",
}
Use = tuple[str, str]  # name, "module.name" or "module.name.attribute", and function that uses it


class UseCollector(ast.NodeVisitor):
    """What one file uses of detectron2: names it imports, their attributes, and what its subclasses take or replace."""

    def __init__(self, file: str):
        self.imported: dict[str, str] = {}
        self.uses: set[Use] = set()
        self.guarded: set[Use] = set()
        self.place = [file]
        self.bases: list[str] = []

    def add(self, name: str) -> None:
        if not name.rpartition(".")[2].startswith("__"):
            self.uses.add((name, ".".join(self.place)))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if alias.name.split(".")[0] == "detectron2":
                self.imported[alias.asname or alias.name] = alias.name
                self.add(alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if (node.module or "").split(".")[0] == "detectron2":
            for alias in node.names:
                self.imported[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                self.add(f"{node.module}.{alias.name}")

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        outer, self.bases = self.bases, [self.imported[b] for b in map(ast.unparse, node.bases) if b in self.imported]
        self.generic_visit(node)
        self.bases = outer

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.add_private(node.name)
        self.place.append(node.name)
        self.generic_visit(node)
        self.place.pop()

    def visit_Attribute(self, node: ast.Attribute) -> None:
        owner = ast.unparse(node.value)
        for found in self.owners(owner):
            self.add(f"{found}.{node.attr}")
        if owner == "self":
            self.add_private(node.attr)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        match node:
            case ast.Call(func=ast.Name(id="hasattr" | "getattr"), args=[owner, ast.Constant(value=str(name)), *_]):
                for found in self.owners(ast.unparse(owner)):
                    self.add(f"{found}.{name}")
                    self.guarded.add((f"{found}.{name}", ".".join(self.place)))
        self.generic_visit(node)

    def owners(self, text: str) -> list[str]:
        """Modules and classes of detectron2 that the expression ``text`` may stand for."""
        if text == "super()":
            return self.bases
        return [known[text] for known in (HELD, self.imported) if text in known]

    def add_private(self, name: str) -> None:
        """``self._name`` in a subclass, where it is the base's too: the subclass relies on it or replaces it."""
        for base in self.bases:
            if name.startswith("_") and exists(f"{base}.{name}"):
                self.add(f"{base}.{name}")


@cache
def exists(name: str) -> bool:
    """Whether the installed detectron2 has it; attributes that a class gives its objects count."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        owner, _, attribute = name.rpartition(".")
        return owner.count(".") > 1 and exists(owner) and attribute in attributes_set(pkgutil.resolve_name(owner))
    return True


def attributes_set(owner: object) -> set[str]:
    """Attributes of ``self`` that the methods of a class set, with those that it inherits."""
    found = set()
    for base in inspect.getmro(owner) if inspect.isclass(owner) else ():
        if base.__module__.startswith("detectron2."):
            for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(base)))):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                    found.add(ast.unparse(node))
    return {name.removeprefix("self.") for name in found if name.startswith("self.")}


def collect(paths: list[Path]) -> tuple[set[Use], set[Use]]:
    """What the files use, and which of it hasattr or getattr asks for."""
    uses, guarded = set(), set()
    for path in paths:
        collector = UseCollector(path.name)
        collector.visit(ast.parse(path.read_text(encoding="utf-8")))
        uses |= collector.uses
        guarded |= collector.guarded
    return uses, guarded


def sources() -> list[Path]:
    folders = ("transavs/**", "tools", "datasets")
    return [path for folder in folders for path in sorted(REPOSITORY.glob(f"{folder}/*.py"))]


def test_what_the_installed_engine_lacks_is_asked_for_first():
    uses, guarded = collect(sources())
    assert {use for use in uses if not exists(use[0])} <= guarded


def test_no_version_of_detectron2_is_compared():
    """Both call themselves 0.6."""
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.Compare) and "detectron2.__version__" in ast.unparse(node)), path


def test_wrong_names_are_found(tmp_path: Path):
    (tmp_path / "wrong.py").write_text(
        textwrap.dedent("""\
            import detectron2.utils.nothing
            from detectron2.data import transforms as T, no_loader
            from detectron2.engine import DefaultTrainer
            from detectron2.utils import comm

            class Trainer(DefaultTrainer):
                def _trainer(self):
                    if hasattr(comm, "create_local_process_group"):
                        comm.create_local_process_group(2)
                    if hasattr(self._trainer, "reset_data_loader"):
                        super().reset(T.Enlarge)
            """)
    )
    uses, guarded = collect([tmp_path / "wrong.py"])
    wrong = {"utils.nothing", "data.no_loader", "data.transforms.Enlarge", "engine.DefaultTrainer.reset"}
    lacking = {use for use in uses if not exists(use[0])}
    assert {name for name, _ in lacking - guarded} == {f"detectron2.{name}" for name in wrong}
    assert ("detectron2.engine.DefaultTrainer._trainer", "wrong.py") in uses
    assert guarded == {
        ("detectron2.engine.SimpleTrainer.reset_data_loader", "wrong.py._trainer"),
        ("detectron2.utils.comm.create_local_process_group", "wrong.py._trainer"),
    }
