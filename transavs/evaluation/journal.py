"""What an evaluation has found so far, on disk, so that a stopped one goes on where it was."""

import json
import logging
import zlib
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn

SUFFIX = ".jsonl"


def evaluation_key(cfg: CfgNode, model: nn.Module) -> str:
    """Tells evaluations apart: it changes with any weight and any setting but the folders."""
    settings = cfg.clone()
    settings.defrost()
    settings.OUTPUT_DIR = settings.MODEL.WEIGHTS = ""
    settings.DATALOADER.CLIP_CACHE = settings.MODEL.AUDIO_BACKBONE.EMBEDDING_CACHE = ""
    key = zlib.crc32(settings.dump().encode())
    for name, value in sorted(model.state_dict().items()):
        content = value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
        key = zlib.crc32(content, zlib.crc32(name.encode(), key))
    return f"{key:08x}"


class Journal:
    """A JSON value for each clip, in a file of each rank and each start of the evaluation.

    Attributes:
        found: values by clip, of earlier starts of the same evaluation on any number of ranks.
    """

    def __init__(self, folder: str | Path, key: str):
        """
        Args:
            folder: for the files.
            key: of :func:`evaluation_key`; what other evaluations left in the folder is not read.
        """
        self.folder = Path(folder)
        earlier = sorted(self.folder.glob(f"{key}-*{SUFFIX}"))
        self.found = {name: value for path in earlier for name, value in self._read(path)}
        if self.found:
            logging.getLogger(__name__).info("%s: %d clips have been evaluated before", folder, len(self.found))
        comm.synchronize()  # all ranks have seen the same files
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / f"{key}-{len(earlier)}-{comm.get_rank()}{SUFFIX}"

    @staticmethod
    def _read(path: Path) -> list[tuple[str, Any]]:
        # What follows the last line break was being written when the evaluation stopped.
        return [tuple(json.loads(line)) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]

    def add(self, name: str, value: Any) -> None:
        """Keep the value of one clip."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps([name, value]) + "\n")
