"""Models as the predictor runs them: tensors of clips in, probabilities out, from a checkpoint or an exported file."""

import json
import logging
import reprlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass

from transavs.checkpoint.hub import local_weights
from transavs.checkpoint.load import load_model
from transavs.data.audio import VGGishLogMel
from transavs.data.front_ends import AudioFrontEnd, find_front_end, front_end_from_dict
from transavs.modeling.meta_arch import AVSModel, check_device
from transavs.utils.errors import AVSInputError, one_line, require
from transavs.utils.limits import MAX_SIDE
from transavs.utils.precision import autocast, find_precision

EXTRA = "export"  # of packages that only exported models need
FORMAT_KEY = "clip_format"  # under which both kinds of files hold the ClipFormat
OPENVINO = "OpenVINOExecutionProvider"  # of the package onnxruntime-openvino; on CPUs faster than ONNX Runtime's own
# Of ONNX Runtime by kind of device, best first.
PROVIDERS = {"cuda": ["CUDAExecutionProvider"], "cpu": [OPENVINO, "CPUExecutionProvider"]}


@dataclass(frozen=True)
class ClipFormat:
    """Format of a model's inputs and outputs.

    Attributes:
        num_frames: T, frames of a clip, one per second.
        image_size: S, side of the square frames in pixels.
        image_format: order of their channels, "RGB" or "BGR".
        class_names: K names, the background first.
        uses_temporal_context: whether what is predicted for a frame depends on the other seconds of its clip.
        front_end: makes examples of the sound; files of before there were several have VGGish's.
    """

    num_frames: int
    image_size: int
    image_format: str
    class_names: tuple[str, ...]
    uses_temporal_context: bool
    front_end: AudioFrontEnd = field(default_factory=VGGishLogMel)

    def __post_init__(self) -> None:
        """
        Raises:
            AVSInputError: a value is none that a model can have; files bring their own.
        """
        numbers = (self.num_frames, self.image_size)
        if not all(isinstance(number, int) and 1 <= number <= MAX_SIDE for number in numbers):
            raise AVSInputError(f"a model of {numbers} frames and pixels: name another model")
        if self.image_format not in ("RGB", "BGR"):
            raise AVSInputError(f"a model of images in {reprlib.repr(self.image_format)}: name another model")
        if len(self.class_names) < 2 or not all(isinstance(name, str) for name in self.class_names):
            raise AVSInputError(f"a model of the classes {reprlib.repr(self.class_names)}: name another model")

    def to_json(self) -> str:
        return json.dumps(asdict(self) | {"front_end": self.front_end.to_dict()})

    @classmethod
    def from_json(cls, text: str) -> "ClipFormat":
        values = json.loads(text)
        if "front_end" in values:
            values["front_end"] = front_end_from_dict(values["front_end"])
        return cls(**values | {"class_names": tuple(values["class_names"])})

    @classmethod
    def from_config(cls, cfg: CfgNode, class_names: Sequence[str], model: AVSModel) -> "ClipFormat":
        return cls(
            num_frames=cfg.INPUT.NUM_FRAMES,
            image_size=cfg.INPUT.IMAGE_SIZE,
            image_format=cfg.INPUT.FORMAT,
            class_names=tuple(class_names),
            uses_temporal_context=model.uses_temporal_context,
            front_end=find_front_end(cfg),
        )


class InferenceBackend:
    """A model in the form that :class:`transavs.inference.predictor.AVSPredictor` runs.

    Attributes:
        format: of what it takes and gives.
        takes_any_length: whether it takes clips of fewer frames than the format's, if it looks at each by itself.
    """

    format: ClipFormat
    takes_any_length = False

    def __call__(self, images: Tensor, log_mel: Tensor) -> Tensor:
        """
        Args:
            images: uint8 (B, T, 3, S, S).
            log_mel: float32 (B, T, ...), examples of the front-end, of the second of sound around each frame.

        Returns:
            float32 probabilities on the CPU, (B, T, K, S, S), summing to 1 over K.
        """
        raise NotImplementedError


class PyTorchBackend(InferenceBackend):
    """A model in PyTorch.

    Attributes:
        checkpoint: file that it was loaded from, and the config in place of the file's own, if there was one; None
            where it was made otherwise.
    """

    takes_any_length = True

    def __init__(self, model: AVSModel, clip_format: ClipFormat, precision: torch.dtype = torch.float32):
        """
        Args:
            model: in evaluation mode.
            clip_format: what it takes and gives.
            precision: that it computes in, under autocast; probabilities are float32 all the same.
        """
        self.model, self.format, self.precision = model, clip_format, precision
        self.checkpoint: tuple[Path, str | Path | None] | None = None

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        device: str | torch.device,
        config_file: str | Path | None = None,
        precision: str = "float32",
    ) -> "PyTorchBackend":
        """Load by :func:`transavs.checkpoint.load.load_model` what :func:`transavs.checkpoint.hub.local_weights` finds.

        Precisions: :mod:`transavs.utils.precision`.
        """
        path = local_weights(path)
        model, cfg, class_names = load_model(path, device, config_file)
        if not isinstance(model, AVSModel):
            raise AVSInputError(f"{path} is a {type(model).__name__}, no AVSModel: name a model of transavs")
        backend = cls(model, ClipFormat.from_config(cfg, class_names, model), find_precision(precision, device))
        backend.checkpoint = path, config_file
        return backend

    @torch.inference_mode()
    def __call__(self, images: Tensor, log_mel: Tensor) -> Tensor:
        with autocast(self.precision, self.model.device):
            probabilities = self.model.forward_tensors(images.float(), log_mel)
        return probabilities.float().cpu()


def load_backend(
    path: str | Path,
    device: str | torch.device | None = None,
    config_file: str | Path | None = None,
    precision: str = "float32",
    trust_program: bool = False,
) -> InferenceBackend:
    """Load a model from a file: .pt2 and .onnx as exported, anything else as a checkpoint.

    Args:
        path: of the file; of a checkpoint also what else :func:`transavs.checkpoint.hub.local_weights` takes.
        device: to run it on; None for a GPU where there is one, and for .onnx where ONNX Runtime can use it, else CPU.
        config_file: in place of the config that a checkpoint carries.
        precision: that the model of a checkpoint computes in, see :func:`transavs.utils.precision.find_precision`.
        trust_program: load a .pt2, which may run code that whoever wrote the file has put into it.

    Raises:
        AVSInputError: the file is missing, broken, a .pt2 that is not trusted, or not a model of this package, or it is
            given a config or a precision though it is exported; or there is no such device or precision.
    """
    loaders = {".pt2": ExportedProgramBackend.from_file, ".onnx": OnnxBackend.from_file}
    loader = loaders.get(Path(path).suffix)
    if loader is None:
        return PyTorchBackend.from_checkpoint(path, device or default_device(), config_file, precision)
    if config_file is not None:
        raise AVSInputError(f"{path} is an exported model and takes no config: leave {config_file} out")
    if precision != "float32":
        raise AVSInputError(f"{path} is an exported model and computes in float32: leave the precision {precision} out")
    if Path(path).suffix == ".pt2" and not trust_program:
        raise AVSInputError(
            f"{path} is a torch.export program, and loading one can run code: trust it (--trust-program) if you know "
            "who wrote it, or export the model as .onnx"
        )
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


def read_format(found: dict[str, str], path: str | Path) -> ClipFormat:
    """The ClipFormat among what a file holds beside the model."""
    if not found.get(FORMAT_KEY):
        raise AVSInputError(f"{path} does not say what it takes: write it with tools/export_model.py")
    return ClipFormat.from_json(found[FORMAT_KEY])


class ExportedProgramBackend(InferenceBackend):
    """A torch.export program (.pt2), run by PyTorch."""

    def __init__(self, program: ExportedProgram, clip_format: ClipFormat, device: str | torch.device):
        self.format, self.device = clip_format, torch.device(device)
        # A program brings its guards as text that PyTorch would evaluate.
        self.module = move_to_device_pass(program, self.device).module(check_guards=False)

    @classmethod
    def from_file(cls, path: str | Path, device: str | torch.device | None) -> "ExportedProgramBackend":
        device = device or default_device()
        check_device(device)
        found = {FORMAT_KEY: ""}
        program = torch.export.load(path, extra_files=found)
        return cls(program, read_format(found, path), device)

    @torch.inference_mode()
    def __call__(self, images: Tensor, log_mel: Tensor) -> Tensor:
        probabilities: Tensor = self.module(images.to(self.device).float(), log_mel.to(self.device))
        return probabilities.float().cpu()


class OnnxBackend(InferenceBackend):
    """An ONNX graph (.onnx), run by ONNX Runtime.

    Attributes:
        provider: the part of ONNX Runtime that runs it.
    """

    def __init__(self, session: Any, clip_format: ClipFormat):
        """
        Args:
            session: an onnxruntime.InferenceSession.
            clip_format: what it takes and gives.
        """
        self.session, self.format = session, clip_format
        self.provider: str = session.get_providers()[0]

    @classmethod
    def from_file(cls, path: str | Path, device: str | torch.device | None) -> "OnnxBackend":
        runtime = require("onnxruntime", EXTRA)
        offered = runtime.get_available_providers()
        kinds = [torch.device(device).type] if device else list(PROVIDERS)
        providers = [name for kind in kinds for name in PROVIDERS.get(kind, [f"{kind.upper()}ExecutionProvider"])]
        usable = [provider for provider in providers if provider in offered]
        if not usable:
            raise AVSInputError(
                f"ONNX Runtime has no {providers[0]} here: choose the device cpu, or install onnxruntime-gpu"
            )
        session = _start_session(runtime, path, usable)
        return cls(session, read_format(session.get_modelmeta().custom_metadata_map, path))

    def __call__(self, images: Tensor, log_mel: Tensor) -> Tensor:
        feeds = {"images": images.float().cpu().numpy(), "log_mel": log_mel.cpu().numpy()}
        return torch.from_numpy(self.session.run(None, feeds)[0])


def _start_session(runtime: Any, path: str | Path, providers: Sequence[str]) -> Any:
    """An onnxruntime.InferenceSession by the first of the providers that knows all operations of the graph."""
    threads = torch.get_num_threads()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    # Else its threads, done with a clip, keep the cores for a while from what reads and writes the video.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    special = {OPENVINO: {"device_type": "CPU", "precision": "FP32", "num_of_threads": str(threads)}}
    of_each = [special.get(provider, {}) for provider in providers]
    try:
        return runtime.InferenceSession(str(path), options, providers=providers, provider_options=of_each)
    except Exception:  # the errors of ONNX Runtime have no other base
        if not providers[1:]:
            raise
        logging.getLogger(__name__).warning("%s cannot run %s: %s does", providers[0], path, providers[1])
        return _start_session(runtime, path, providers[1:])
