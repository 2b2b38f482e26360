"""Models from files that :mod:`transavs.export` has written, and the choice between them and checkpoints."""

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass

from transavs.clip_scorer import ClipFormat, ClipScorer, ModelScorer
from transavs.errors import AVSInputError, one_line
from transavs.modeling.base import check_device

FORMAT_KEY = "clip_format"  # under which both kinds of files hold the ClipFormat
PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")  # of ONNX Runtime, best first


def load_scorer(
    path: str | Path,
    device: str | torch.device | None = None,
    config_file: str | Path | None = None,
    precision: str = "float32",
) -> ClipScorer:
    """A model from a file: .pt2 and .onnx as exported, anything else as a checkpoint.

    Args:
        path: of the file.
        device: to run it on; None for a GPU where there is one, and for .onnx where ONNX Runtime can use it, else CPU.
        config_file: in place of the config that a checkpoint carries.
        precision: that the model of a checkpoint computes in, see :func:`transavs.precision.find_precision`.

    Raises:
        AVSInputError: the file is missing, broken or not a model of this package, or it is given a config or a
            precision though it is exported; or there is no such device or precision.
    """
    loaders = {".pt2": ProgramScorer.from_file, ".onnx": OnnxScorer.from_file}
    loader = loaders.get(Path(path).suffix)
    if loader is None:
        return ModelScorer.from_checkpoint(path, device or default_device(), config_file, precision)
    if config_file is not None:
        raise AVSInputError(f"{path} is an exported model and takes no config: leave {config_file} out")
    if precision != "float32":
        raise AVSInputError(f"{path} is an exported model and computes in float32: leave the precision {precision} out")
    if not Path(path).is_file():
        raise AVSInputError(f"the exported model {path} does not exist: write it with tools/export_model.py")
    try:
        return loader(path, device)
    except AVSInputError:
        raise
    except Exception as error:  # a broken or foreign file can raise nearly anything
        raise AVSInputError(
            f"{path} cannot be read as an exported model ({one_line(error)}): write it with tools/export_model.py"
        ) from error


def default_device() -> str:
    """Name the device for a model that nobody has named one for: a GPU where PyTorch sees one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def require(package: str) -> Any:
    """A package that only exported models need."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise AVSInputError(f'{package} is not installed: pip install "transavs[export]"') from error


def read_format(found: dict[str, str], path: str | Path) -> ClipFormat:
    """The ClipFormat among what a file holds beside the model."""
    if not found.get(FORMAT_KEY):
        raise AVSInputError(f"{path} does not say what it takes: write it with tools/export_model.py")
    return ClipFormat.from_json(found[FORMAT_KEY])


class ProgramScorer(ClipScorer):
    """A torch.export program (.pt2), run by PyTorch."""

    def __init__(self, program: ExportedProgram, clip_format: ClipFormat, device: str | torch.device):
        self.format, self.device = clip_format, torch.device(device)
        # A program brings its guards as text that PyTorch would evaluate.
        self.module = move_to_device_pass(program, self.device).module(check_guards=False)

    @classmethod
    def from_file(cls, path: str | Path, device: str | torch.device | None) -> "ProgramScorer":
        # Here, for the sake of versions of PyTorch that run all the rest and have no such archives.
        from transavs.program_check import refuse_code

        device = device or default_device()
        check_device(device)
        refuse_code(path)
        found = {FORMAT_KEY: ""}
        program = torch.export.load(path, extra_files=found)
        return cls(program, read_format(found, path), device)

    @torch.inference_mode()
    def __call__(self, images: Tensor, log_mel: Tensor) -> Tensor:
        scores: Tensor = self.module(images.to(self.device).float(), log_mel.to(self.device))
        return scores.float().cpu()


class OnnxScorer(ClipScorer):
    """An ONNX graph (.onnx), run by ONNX Runtime."""

    def __init__(self, session: Any, clip_format: ClipFormat):
        """
        Args:
            session: an onnxruntime.InferenceSession.
            clip_format: what it takes and gives.
        """
        self.session, self.format = session, clip_format

    @classmethod
    def from_file(cls, path: str | Path, device: str | torch.device | None) -> "OnnxScorer":
        runtime = require("onnxruntime")
        offered = runtime.get_available_providers()
        providers = [f"{torch.device(device).type.upper()}ExecutionProvider"] if device else list(PROVIDERS)
        usable = [provider for provider in providers if provider in offered]
        if not usable:
            raise AVSInputError(
                f"ONNX Runtime has no {providers[0]} here: choose the device cpu, or install onnxruntime-gpu"
            )
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = runtime.InferenceSession(str(path), options, providers=usable)
        return cls(session, read_format(session.get_modelmeta().custom_metadata_map, path))

    def __call__(self, images: Tensor, log_mel: Tensor) -> Tensor:
        feeds = {"images": images.float().cpu().numpy(), "log_mel": log_mel.cpu().numpy()}
        return torch.from_numpy(self.session.run(None, feeds)[0])
