"""Models written to one file that runs without this package: a torch.export program (.pt2) or an ONNX graph (.onnx)."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from transavs.inference.backends import EXTRA, FORMAT_KEY, ClipFormat, InferenceBackend, PyTorchBackend, load_backend
from transavs.modeling.meta_arch import AVSModel
from transavs.utils.atomic_files import atomic_write
from transavs.utils.errors import AVSInputError, one_line, require

# Two numbers, neither of them 1, which a graph treats on its own: what holds for both holds for any number of clips.
TRACED_CLIPS = 2
COMPARED_CLIPS = 3
TOLERANCE = 1e-3
# What a graph remembers of the code that it came from: paths on this machine, and nothing that runs.
SOURCE_NOTES = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node")


class ForwardTensors(nn.Module):
    """:meth:`AVSModel.forward_tensors` as the forward of a module: what is traced."""

    def __init__(self, model: AVSModel):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, log_mel: Tensor) -> Tensor:
        return self.model.forward_tensors(images, log_mel)


def check_export_path(path: str | Path) -> Path:
    """``path``, if its suffix is a key of WRITERS; else an AVSInputError, better before than after long work."""
    if Path(path).suffix not in WRITERS:
        raise AVSInputError(f"{path}: the suffix says what to write: choose from {', '.join(WRITERS)}")
    return Path(path)


def export_model(backend: PyTorchBackend, path: str | Path) -> float:
    """Write a model to a file, which is only there once its probabilities have been found to be the model's.

    Args:
        backend: the model, in evaluation mode.
        path: .pt2 for a program that PyTorch runs, .onnx for a graph that ONNX Runtime runs.

    Returns:
        the largest difference between the file's probabilities and the model's on random clips.

    Raises:
        AVSInputError: another suffix, a folder that is not there, a model that cannot be traced, a package that is
            missing, or probabilities that differ.
    """
    path = check_export_path(path)
    if not path.parent.is_dir():
        raise AVSInputError(f"the folder {path.parent} does not exist: make it, or write elsewhere")
    try:
        with atomic_write(path) as partial:
            WRITERS[path.suffix](trace(backend), backend.format, partial)
            difference = largest_difference(backend, load_backend(partial, backend.model.device, trust_program=True))
            if not difference <= TOLERANCE:
                raise AVSInputError(
                    f"{path} is not written, it differs from the model by {difference:.1g}: use the checkpoint"
                )
    except AVSInputError:
        raise
    except Exception as error:  # what cannot be traced or translated raises nearly anything
        raise AVSInputError(
            f"the model cannot be exported to {path} ({one_line(error)}): make its forward_tensors free of Python that "
            "depends on what tensors hold"
        ) from error
    return difference


def random_clips(clip_format: ClipFormat, clips: int) -> tuple[Tensor, Tensor]:
    """uint8 images (B, T, 3, S, S) and log_mel (B, T, ...), the same in every call."""
    generator = torch.Generator().manual_seed(clips)
    frames, size = (clips, clip_format.num_frames), clip_format.image_size
    images = torch.randint(256, (*frames, 3, size, size), dtype=torch.uint8, generator=generator)
    return images, torch.randn(*frames, *clip_format.front_end.shape, generator=generator)


def trace(backend: PyTorchBackend) -> ExportedProgram:
    """The program of ``forward_tensors``: float images and log_mel of any number of clips -> probabilities."""
    images, log_mel = (clips.to(backend.model.device) for clips in random_clips(backend.format, TRACED_CLIPS))
    clips = torch.export.Dim("clips", min=1)
    with torch.no_grad(), quiet():
        program = torch.export.export(
            ForwardTensors(backend.model),
            (images.float(), log_mel),
            dynamic_shapes={"images": {0: clips}, "log_mel": {0: clips}},
            strict=False,
        )
    strip(program)
    return program


def strip(program: ExportedProgram) -> None:
    """Take off what a file of it would hold without need: inputs, which would be pickled, and where code came from."""
    program.example_inputs = None
    for node in program.graph.nodes:
        for note in SOURCE_NOTES:
            node.meta.pop(note, None)


def write_program(program: ExportedProgram, clip_format: ClipFormat, path: Path) -> None:
    torch.export.save(program, path, extra_files={FORMAT_KEY: clip_format.to_json()})


def write_onnx(program: ExportedProgram, clip_format: ClipFormat, path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require(package, EXTRA)
    with quiet():
        graph = torch.onnx.export(program, (), dynamo=True, output_names=["probabilities"], verbose=False)
    assert graph is not None  # it is for dynamo=True
    graph.model.metadata_props[FORMAT_KEY] = clip_format.to_json()
    graph.save(path, external_data=False)


WRITERS: dict[str, Callable[[ExportedProgram, ClipFormat, Path], None]] = {".pt2": write_program, ".onnx": write_onnx}


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of PyTorch and onnxscript about their own insides."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def largest_difference(one: InferenceBackend, other: InferenceBackend) -> float:
    """Compare the probabilities that two models of one format give to random clips."""
    images, log_mel = random_clips(one.format, COMPARED_CLIPS)
    return (one(images, log_mel) - other(images, log_mel)).abs().max().item()
