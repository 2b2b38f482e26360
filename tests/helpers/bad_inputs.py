"""Good inputs, the functions that read files, and what makes bad files of good ones."""

import io
import pickle
import struct
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import soundfile
import timm
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from PIL import Image

from helpers.videos import make_video
from transavs.checkpoint.checkpointer import AVSCheckpointer
from transavs.checkpoint.convert import convert_weights
from transavs.checkpoint.load import load_model
from transavs.config.load import load_config
from transavs.data.audio import load_log_mel_pickle, log_mel_examples
from transavs.data.avsbench import LAYOUTS, load_avsbench
from transavs.evaluation.mask_folders import read_probability_map
from transavs.media.audio_file import load_audio
from transavs.media.audio_stream import SoundFile
from transavs.media.images import read_frame, read_mask
from transavs.media.video_reader import Video
from transavs.modeling.backbones.audio import SmallAudioNet, load_audio_weights
from transavs.modeling.backbones.timm import TimmBackbone
from transavs.utils.errors import AVSInputError
from transavs.utils.weight_files import read_about, read_checkpoint
from transavs.visualization.runs import read_curves, read_results

SMALL_TIMM = "test_resnet"


@dataclass(frozen=True)
class Good:
    """Inputs that every tool takes (read only)."""

    config: Path
    weights: Path
    video: Path
    tree: Path  # synthetic data set
    masks: Path  # PNG files, predictions of themselves
    run: Path  # what training leaves behind

    @classmethod
    def make(cls, folder: Path, cfg: CfgNode, tree: Path) -> "Good":
        (folder / "config.yaml").write_text(cfg.dump())
        AVSCheckpointer(build_model(cfg), str(folder), cfg).save("weights")
        (folder / "run").mkdir()
        (folder / "run/metrics.json").write_text('{"iteration": 1, "total_loss": 2.0}\n')
        (folder / "run/results.json").write_text('{"J": 1.0, "J-bell": 1.0}\n')
        return cls(
            config=folder / "config.yaml",
            weights=folder / "weights.pth",
            video=make_video(folder / "video.mp4", seconds=1),
            tree=tree,
            masks=tree / "Single-source/s4_data/gt_masks/test",
            run=folder / "run",
        )


def wav(samples: object = None, **options: str) -> bytes:
    file = io.BytesIO()
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, (2000, 2)) if samples is None else samples
    soundfile.write(file, wave, 16000, **{"format": "WAV"} | options)
    return file.getvalue()


def wav_header(channels: int, sample_rate: int, samples: int = 1000) -> bytes:
    """A wav of silence whose header says so of its channels and rate."""
    data = bytes(2 * samples)
    about = struct.pack("<HHIIHH", 1, channels, sample_rate, 0, 2 * channels % 2**16, 16)
    body = b"WAVEfmt " + struct.pack("<I", len(about)) + about + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def picture(mode: str, kind: str = "PNG", step: int = 128) -> bytes:
    """Noise of two levels; palettes of PASCAL VOC's have steps of 128."""
    file = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 2, (12, 16, 3), dtype=np.uint8) * step
    Image.fromarray(values).convert(mode).save(file, format=kind)
    return file.getvalue()


def saved(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def clip(kind: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return make_video(Path(folder) / f"a.{kind}", seconds=0.4, frame_rate=5).read_bytes()


def read_video(path: Path) -> object:
    found = Video(path)
    return sum(frame.pixels().size for frame in found.frames()) + sum(block.size for block in found.sound(16000))


def timm_backbone(path: Path) -> TimmBackbone:
    about = {"in_channels": 3, "image_size": 32, "out_features": ["res2"], "drop_path_rate": 0.0, "frozen_stages": 0}
    return TimmBackbone(name=SMALL_TIMM, pretrained=False, weights=str(path), **about)


def small_audio_net() -> SmallAudioNet:
    return SmallAudioNet(channels=[4], embed_dim=2, norm="BN")


CSV, CLASSES = LAYOUTS["ms3"].meta, LAYOUTS["avss"].class_names
# A file's name -> what reads it, and the contents of good ones.
READERS: dict[str, tuple[Callable[[Path], object], Callable[[Good], list[bytes]]]] = {
    CSV: (lambda path: load_avsbench(path.parents[1], "ms3", "test"), lambda good: [(good.tree / CSV).read_bytes()]),
    CLASSES: (
        lambda path: LAYOUTS["avss"].read_class_names(path.parent),
        lambda good: [b'{"background": 0, "dog": 1}'],
    ),
    "clip.wav": (
        lambda path: log_mel_examples(*load_audio(path)),
        lambda good: [wav(), wav(subtype="FLOAT"), wav(format="FLAC"), wav(subtype="IMA_ADPCM")],
    ),
    "log_mel.pkl": (
        load_log_mel_pickle,
        lambda good: [pickle.dumps(torch.zeros(1, 1, 96, 64), protocol=protocol) for protocol in (3, 4)],
    ),
    "frame.png": (
        lambda path: read_frame(str(path), "RGB"),
        lambda good: [picture("RGB"), picture("L", "JPEG"), picture("RGB", "WEBP"), picture("RGB", "BMP")],
    ),
    "mask.png": (lambda path: read_mask(str(path), "class_ids"), lambda good: [picture("L"), picture("P")]),
    "colors.png": (lambda path: read_mask(str(path), "palette"), lambda good: [picture("RGB"), picture("RGBA")]),
    "probabilities.png": (
        lambda path: read_probability_map(str(path)),
        lambda good: [picture("1"), picture("P"), picture("I;16")],
    ),
    "video.mp4": (read_video, lambda good: [clip("mp4"), clip("mkv"), clip("ts")]),
    "sound.mp4": (lambda path: list(SoundFile(path, 1).sound(16000)), lambda good: [clip("mp4"), wav()]),
    "config.yaml": (load_config, lambda good: [good.config.read_bytes()]),
    "checkpoint.pth": (read_checkpoint, lambda good: [good.weights.read_bytes()]),
    "model.pth": (lambda path: load_model(path, "cpu"), lambda good: [good.weights.read_bytes()]),
    "weights.safetensors": (read_checkpoint, lambda good: [safetensors.torch.save({"a": torch.ones(9)})]),
    "transavs.json": (read_about, lambda good: [b'{"class_names": ["background", "dog"], "versions": {}}']),
    "catalog.pkl": (read_checkpoint, lambda good: [pickle.dumps({"blobs": {"a": np.ones(9)}})]),
    "torchvision.pth": (
        lambda path: convert_weights("torchvision", path, path.with_name("out")),
        lambda good: [saved({"state_dict": {"conv1.weight": torch.ones(9)}})],
    ),
    "timm.pth": (timm_backbone, lambda good: [saved(timm.create_model(SMALL_TIMM).state_dict())]),
    "audio.pth": (
        lambda path: load_audio_weights(small_audio_net(), str(path)),
        lambda good: [saved(small_audio_net().state_dict())],
    ),
    "metrics.json": (lambda path: read_curves(path.parent), lambda good: [(good.run / "metrics.json").read_bytes()]),
    "results.json": (lambda path: read_results(path.parent), lambda good: [(good.run / "results.json").read_bytes()]),
}


def assert_not_read(reader: str, content: bytes, folder: Path) -> None:
    """A file of this content is refused by its name."""
    path = folder / reader
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    assert_refused(lambda: READERS[reader][0](path), path, folder)


def assert_refused(read: Callable[[], object], named: object, folder: Path) -> None:
    """``read`` raises an AVSInputError of one line with ``named``, a path, key or value, and writes nothing."""
    before = set(folder.rglob("*"))
    with pytest.raises(AVSInputError) as caught:
        read()
    assert "\n" not in str(caught.value)
    assert str(named) in str(caught.value)
    assert set(folder.rglob("*")) == before, "something was written"
