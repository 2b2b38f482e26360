"""Writing checkpoints that are whole or not there, and finding the last one again."""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathManager
from torch import nn

from transavs.checkpoint.hub import local_weights
from transavs.checkpoint.versions import versions
from transavs.utils.atomic_files import PARTIAL, atomic_write
from transavs.utils.errors import AVSInputError, one_line
from transavs.utils.weight_files import is_whole, read_checkpoint

PATTERN = "model_*.pth"
BEST = "model_best.pth"  # weights alone, which no run goes on from
LAST = "last_checkpoint"
# Parameters and buffers that inference does without: those of the losses, and a counter that no norm reads.
CRITERION, COUNTER = "criterion.", "num_batches_tracked"


class _WholeFiles:
    """detectron2's path manager, but local files are written beside and renamed, and weights are found by name."""

    def __getattr__(self, name: str) -> Any:
        return getattr(PathManager, name)

    def get_local_path(self, path: str) -> str:
        return str(local_weights(path))

    @contextmanager
    def open(self, path: str, mode: str = "r", **options: Any) -> Iterator[IO]:
        if "w" not in mode or "://" in path:
            with PathManager.open(path, mode, **options) as file:
                yield file
            return
        with atomic_write(path) as partial, open(partial, mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # the new name must not reach the disk before what it names


class AVSCheckpointer(DetectionCheckpointer):
    """detectron2's, which runs nothing that a file holds and leaves no file half written.

    Its files hold what it takes to use the model and to tell where it comes from: ``config`` (YAML), ``class_names``
    and ``versions``.

    Attributes:
        missing: parameters and buffers of the model that the last file lacked, or held in another shape.
    """

    missing: frozenset[str] = frozenset()
    _held: Collection[str] = ()  # names in the last file

    def __init__(self, model: nn.Module, save_dir: str = "", cfg: CfgNode | None = None, **checkpointables: Any):
        """
        Args:
            model: to save or load.
            save_dir: folder of the checkpoints.
            cfg: that the files carry; None where none is written.
            checkpointables: as detectron2's.
        """
        super().__init__(model, save_dir, **checkpointables)
        self.path_manager = _WholeFiles()
        self._cfg = cfg

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``name``.pth into the folder.

        Raises:
            AVSInputError: a weight is not finite, or the file cannot be written; those of before stay as they are.
        """
        path = f"{self.save_dir}/{name}.pth"
        for weight, value in self.model.state_dict().items():
            if value.is_floating_point() and not value.isfinite().all():
                raise AVSInputError(f"{path} is not written, {weight} is not finite: lower SOLVER.BASE_LR, --resume")
        if self._cfg is not None:
            # The names of AVSS's classes are read with the data, so they are asked for late.
            names = MetadataCatalog.get(self._cfg.DATASETS.TRAIN[0]).get("stuff_classes", [])
            kwargs |= {"config": self._cfg.dump(), "class_names": list(names), "versions": versions()}
        try:
            super().save(name, **kwargs)
        except (OSError, RuntimeError) as error:  # RuntimeError: torch's, where the disk is full
            raise AVSInputError(
                f"{path} cannot be written ({one_line(error)}): make room, then --resume from the one before, "
                "which is as it was"
            ) from error

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a file as detectron2's does, which takes any file and of missing parameters only logs.

        Raises:
            AVSInputError: the file is no checkpoint, or holds no parameter of this model.
        """
        try:
            found: dict[str, Any] = super().load(path, checkpointables)
        except AVSInputError:
            raise
        except Exception as error:  # missing, truncated, not a checkpoint, hostile: each raises something else
            raise AVSInputError(
                f"the checkpoint {path} cannot be loaded ({one_line(error)}): name a good file"
            ) from error
        if path and self.missing >= dict(self.model.named_parameters()).keys():
            raise AVSInputError(f"the checkpoint {path} holds no parameter of this model: name one of its own")
        return found

    def load_all(self, path: str, loaded_elsewhere: Collection[str] = ()) -> None:
        """Load the weights of a model for inference, of which no part may stay random.

        Args:
            path: of the file.
            loaded_elsewhere: prefixes of names, such as "audio_backbone."; the file may lack all of such a part.

        Raises:
            AVSInputError: see :meth:`load`; or the file lacks a parameter, or holds it in another shape.
        """
        self.load(path, checkpointables=[])
        names = {name for name in self.model.state_dict() if not name.endswith(COUNTER)}
        absent = [prefix for prefix in loaded_elsewhere if not any(name.startswith(prefix) for name in self._held)]
        lacking = sorted(name for name in self.missing & names if not name.startswith((CRITERION, *absent)))
        if lacking:
            raise AVSInputError(
                f"the checkpoint {path} does not fit the model: it lacks {len(lacking)} of {len(names)} parameters, or "
                f"holds them in another shape, such as {lacking[0]}: give the config that it was trained with, and for "
                "an audio backbone that the file does not hold MODEL.AUDIO_BACKBONE.WEIGHTS"
            )

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        self._held = {name.removeprefix("module.") for name in checkpoint["model"]}
        incompatible = super()._load_model(checkpoint)
        misshapen = {name for name, _, _ in incompatible.incorrect_shapes}
        self.missing = frozenset(misshapen.union(incompatible.missing_keys))
        return incompatible

    def has_checkpoint(self) -> bool:
        return bool(self.get_checkpoint_file())

    def get_checkpoint_file(self) -> str:
        """The last checkpoint in the folder that is whole; "" if there is none.

        It is the one that was noted as the last, or one of later iterations that was written after it, when the process
        was killed before it noted that. Where the noted one is missing or broken, it is the latest written.
        """
        found = (path for path in Path(self.save_dir).glob(PATTERN) if path.name != BEST)
        files = sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)
        note = Path(self.save_dir, LAST)
        if note.is_file():
            noted = Path(self.save_dir, Path(note.read_text(errors="replace").strip()).name)
            if self._is_whole(noted):
                written = noted.stat().st_mtime_ns
                later = [path for path in files if path.stat().st_mtime_ns > written and self._is_whole(path)]
                return str(max([noted, *later], key=_iteration))
        return str(next(filter(self._is_whole, files), ""))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        if last_filename_basename != BEST:
            super().tag_last_checkpoint(last_filename_basename)

    def _is_whole(self, path: Path) -> bool:
        if is_whole(path):
            return True
        self.logger.warning("%s is missing or not whole and is left out", path)
        return False

    def remove_partial_files(self) -> None:
        """Remove what a process that was killed has left half written in the folder."""
        for path in Path(self.save_dir).glob(f".*{PARTIAL}*"):
            path.unlink(missing_ok=True)

    def _load_file(self, filename: str) -> dict[str, Any]:
        found = read_checkpoint(filename)
        return found if "model" in found else {"model": found}


def _iteration(path: Path) -> int:
    """Read the iteration that a checkpoint was written after, -1 if it does not say; weights are not read."""
    try:
        return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["iteration"])
    except Exception:  # a hostile file can raise nearly anything; loading it tells
        return -1
