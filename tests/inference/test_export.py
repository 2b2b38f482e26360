"""Exported models: their scores, what their files say, and files that are refused."""

import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from helpers.models import CLASSES, make_backend
from helpers.repository import ENCODER_ONLY, TINY_MODEL
from torch import nn

from transavs import AVSInputError, AVSPredictor
from transavs.checkpoint.checkpointer import AVSCheckpointer
from transavs.inference import export
from transavs.inference.backends import (
    FORMAT_KEY,
    ClipFormat,
    ExportedProgramBackend,
    OnnxBackend,
    PyTorchBackend,
    load_backend,
)
from transavs.inference.export import export_model, largest_difference, random_clips
from transavs.media.audio_file import SAMPLE_RATE

TINY = {
    # Queries that differ as after training: at its start the sound outweighs what is their own.
    "TransAVS": [
        *("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "4", "MODEL.TRANSAVS.DEC_LAYERS", "1"),
        *("MODEL.TRANSAVS.QUERY_CONTENT_STD", "3.0"),
    ],
    "EncoderTransAVS": [
        *(*ENCODER_ONLY, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "4"),
        *("MODEL.TRANSAVS.QUERY_CONTENT_STD", "3.0"),
    ],
    # Windows that are shorter than the clip and do not divide it.
    "TPAVI": [*("MODEL.META_ARCHITECTURE", "TPAVI", "MODEL.TPAVI.HEAD_CHANNELS", "[8, 8]", "MODEL.TPAVI.WINDOW", "2")],
}
SPREAD = 1e-3  # at least, of the scores of some class
TOLERANCES = {".pt2": 1e-6, ".onnx": 1e-5}


@pytest.fixture(scope="module", params=[(name, suffix) for name in TINY for suffix in TOLERANCES], ids="".join)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[PyTorchBackend, Path]:
    name, suffix = request.param
    backend = make_backend("quickstart.yaml", [*TINY_MODEL, *TINY[name]])
    path = tmp_path_factory.mktemp("exported") / f"{name}{suffix}"
    assert export_model(backend, path) <= TOLERANCES[suffix]
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    return backend, path


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that is in order, of a model that is quick to write."""
    path = tmp_path_factory.mktemp("program") / "good.pt2"
    traced = torch.export.export(
        nn.Linear(2, 2), (torch.zeros(3, 2),), dynamic_shapes=({0: torch.export.Dim("clips")},)
    )
    export.strip(traced)
    export.write_program(traced, ClipFormat(5, 32, "RGB", CLASSES, False), path)
    return path


def test_any_number_of_clips_is_scored_as_by_the_model(exported: tuple[PyTorchBackend, Path]):
    backend, path = exported
    loaded = load_backend(path, "cpu", trust_program=True)
    assert type(loaded) is {".pt2": ExportedProgramBackend, ".onnx": OnnxBackend}[path.suffix]
    assert loaded.format == backend.format
    for clips in (1, 3, 4):
        images, log_mel = random_clips(backend.format, clips)
        expected, found = backend(images, log_mel), loaded(images, log_mel)
        assert found.dtype == torch.float32
        assert expected.std((0, 1, 3, 4)).max() > SPREAD
        torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCES[path.suffix])


def test_the_predictor_takes_an_exported_model(exported: tuple[PyTorchBackend, Path]):
    backend, path = exported
    rng = np.random.default_rng(0)
    frames = list(rng.integers(0, 256, (7, 20, 30, 3), dtype=np.uint8))
    sound = rng.uniform(-0.3, 0.3, 7 * SAMPLE_RATE)
    expected = AVSPredictor(backend).predict(frames, sound, SAMPLE_RATE)
    found = AVSPredictor.from_checkpoint(path, device="cpu", trust_program=True).predict(frames, sound, SAMPLE_RATE)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.probabilities, other.probabilities, rtol=0, atol=TOLERANCES[path.suffix])


def test_the_tool_writes_what_a_checkpoint_holds(tmp_path: Path, tiny_cfg, run_here):
    model = build_model(tiny_cfg).eval()
    AVSCheckpointer(model, str(tmp_path), tiny_cfg).save("tiny")
    target = tmp_path / "tiny.pt2"
    done = run_here("tools/export_model.py", "--weights", tmp_path / "tiny.pth", "--output", target)
    assert done.returncode == 0, done.stderr
    assert "clips of 5 frames of 32 pixels (RGB), 2 classes\nlargest difference from the checkpoint's" in done.stdout
    one, other = load_backend(tmp_path / "tiny.pth", "cpu"), load_backend(target, "cpu", trust_program=True)
    assert one.format == other.format
    assert largest_difference(one, other) < 1e-6
    done = run_here("tools/export_model.py", "--weights", tmp_path / "tiny.pth", "--output", tmp_path / "tiny.torch")
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path}/tiny.torch: the suffix says what to write: choose from .pt2, .onnx\n"
    with pytest.raises(AVSInputError, match=r"the folder .*nowhere does not exist"):
        export_model(one, tmp_path / "nowhere/tiny.onnx")


class Deaf(nn.Module):
    device = torch.device("cpu")

    def forward_tensors(self, images: torch.Tensor, log_mel: torch.Tensor) -> torch.Tensor:
        return images if log_mel.sum().item() > 0 else -images


def test_a_model_that_cannot_be_traced(tmp_path: Path):
    with pytest.raises(AVSInputError, match=r"cannot be exported to .*deaf\.pt2 \(.*\): make its forward_tensors free"):
        export_model(PyTorchBackend(Deaf(), ClipFormat(1, 2, "RGB", CLASSES, False)), tmp_path / "deaf.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("difference", [0.002, float("nan")])
def test_a_file_that_scores_otherwise_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, difference: float):
    monkeypatch.setattr(export, "trace", lambda backend: None)
    monkeypatch.setattr(export, "load_backend", lambda *_, **__: None)
    monkeypatch.setattr(export, "largest_difference", lambda one, other: difference)
    monkeypatch.setitem(export.WRITERS, ".pt2", lambda program, clip_format, path: path.touch())
    with pytest.raises(AVSInputError, match=r"off\.pt2 is not written, it differs from the model by .*: use"):
        export_model(PyTorchBackend(Deaf(), ClipFormat(1, 2, "RGB", CLASSES, False)), tmp_path / "off.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["broken.pt2", "broken.onnx", "missing.pt2", "missing.onnx"])
def test_files_that_are_no_models(tmp_path: Path, name: str):
    if name.startswith("broken"):
        (tmp_path / name).write_bytes(b"not a model")
    with pytest.raises(AVSInputError, match=rf"{name} (cannot be read|does not exist).*tools/export_model\.py"):
        load_backend(tmp_path / name, "cpu", trust_program=True)


def test_models_of_others(tmp_path: Path, program: Path):
    traced = torch.export.export(nn.Linear(2, 2), (torch.zeros(3, 2),))
    torch.export.save(traced, tmp_path / "theirs.pt2")
    torch.onnx.export(traced, (), tmp_path / "theirs.onnx", dynamo=True, verbose=False)
    for name in ("theirs.pt2", "theirs.onnx"):
        with pytest.raises(
            AVSInputError, match=rf"{name} does not say what it takes: write it with tools/export_model"
        ):
            load_backend(tmp_path / name, "cpu", trust_program=True)
    with pytest.raises(AVSInputError, match=r"good\.pt2 is an exported model and takes no config: leave a\.yaml out"):
        load_backend(program, "cpu", "a.yaml")


def test_a_program_is_loaded_only_when_it_is_trusted(program: Path):
    """Loading one can run code: PyTorch's loader is not made for files of strangers."""
    for load in (load_backend, AVSPredictor.from_checkpoint):
        with pytest.raises(AVSInputError, match=r"good\.pt2 is a torch\.export program, and loading one can run code"):
            load(program)
    assert load_backend(program, "cpu", trust_program=True).format.class_names == CLASSES


@pytest.mark.parametrize("name", ["onnx", "onnxscript", "onnxruntime"])
def test_packages_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: Path, name: str):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(AVSInputError, match=rf'{name} is not installed: pip install "transavs\[export\]"'):
        export.write_onnx(torch.export.load(program), ClipFormat(1, 2, "RGB", CLASSES, False), tmp_path / "some.onnx")


def test_a_device_that_onnx_runtime_lacks(tmp_path: Path):
    (tmp_path / "some.onnx").touch()
    with pytest.raises(AVSInputError, match="ONNX Runtime has no XPUExecutionProvider here: choose the device cpu"):
        load_backend(tmp_path / "some.onnx", "xpu")


def fake_runtime(folder: Path, monkeypatch: pytest.MonkeyPatch, offered: list[str]) -> Mock:
    """ONNX Runtime with these providers and its own, and a graph for it called some.onnx."""
    (folder / "some.onnx").touch()
    runtime = Mock()
    runtime.get_available_providers.return_value = [f"{name}ExecutionProvider" for name in (*offered, "CPU")]
    session = runtime.InferenceSession.return_value
    session.get_modelmeta.return_value.custom_metadata_map = {
        FORMAT_KEY: ClipFormat(5, 32, "RGB", CLASSES, False).to_json()
    }
    session.get_providers.return_value = ["CPUExecutionProvider"]
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    return runtime


@pytest.mark.parametrize("offered", [["Azure"], ["Tensorrt", "CUDA"], ["OpenVINO"]], ids=" ".join)
@pytest.mark.parametrize("has_gpu", [False, True])
def test_by_default_onnx_runtime_chooses_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offered: list[str], has_gpu: bool
):
    """A GPU that it can use, whatever PyTorch has; what the extra installs can use none."""
    runtime = fake_runtime(tmp_path, monkeypatch, offered)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    AVSPredictor.from_checkpoint(tmp_path / "some.onnx")
    chosen = [f"{name}ExecutionProvider" for name in ("CUDA", "OpenVINO", "CPU") if name in (*offered, "CPU")]
    given = runtime.InferenceSession.call_args.kwargs
    assert given["providers"] == chosen
    # OpenVINO computes in bfloat16 where the CPU can, unless it is told not to.
    assert [options.get("precision") == "FP32" for options in given["provider_options"]] == [
        name.startswith("OpenVINO") for name in chosen
    ]
    if "CUDA" not in offered:
        with pytest.raises(AVSInputError, match="ONNX Runtime has no CUDAExecutionProvider here: choose the device cp"):
            AVSPredictor.from_checkpoint(tmp_path / "some.onnx", device="cuda")


def test_a_graph_that_openvino_cannot_run_runs_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    runtime = fake_runtime(tmp_path, monkeypatch, ["OpenVINO"])
    runtime.InferenceSession.side_effect = [Exception("Unsupported"), runtime.InferenceSession.return_value]
    load_backend(tmp_path / "some.onnx", "cpu")
    tried = [call.kwargs["providers"] for call in runtime.InferenceSession.call_args_list]
    assert tried == [["OpenVINOExecutionProvider", "CPUExecutionProvider"], ["CPUExecutionProvider"]]
    assert "OpenVINOExecutionProvider cannot run" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("suffix", list(TOLERANCES))
@pytest.mark.parametrize("config", ["s4_r50.yaml", "tpavi/s4_r50.yaml"])
def test_models_of_full_size(tmp_path: Path, config: str, suffix: str):
    backend = make_backend(config, ["MODEL.DEVICE", "cpu", "MODEL.AUDIO_BACKBONE.WEIGHTS", ""])
    assert backend.format.image_size == 224
    assert backend(*random_clips(backend.format, 1))[:, :, 0].std() > SPREAD
    assert export_model(backend, tmp_path / f"model{suffix}") <= export.TOLERANCE
