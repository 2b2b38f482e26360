"""The functions that read files, on bad ones: an AVSInputError of one line that names the file and the mend."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.bad_inputs import (
    Good,
    Make,
    assert_raises,
    changed_checkpoint,
    folder,
    holds,
    image,
    nothing,
    part_of,
    pickled,
    png_header,
    row,
    saves,
    sound,
    tree_with,
    wav_header,
)

from transavs.checkpoint.convert import convert_weights
from transavs.checkpoint.load import load_model, read_checkpoint
from transavs.data.audio import load_log_mel_pickle
from transavs.data.avsbench import LAYOUTS, load_avsbench
from transavs.demo.process_videos import find_videos
from transavs.demo.session import Limits
from transavs.evaluation.mask_folders import read_probability_map
from transavs.media.audio_file import load_audio
from transavs.media.audio_stream import SoundFile
from transavs.media.images import read_frame, read_mask
from transavs.media.video_reader import Video, open_video
from transavs.utils.tensor_cache import TensorCache
from transavs.visualization.clips import check_figure_path
from transavs.visualization.runs import read_curves, read_results

MS3 = LAYOUTS["ms3"].meta
# What makes the bad thing; what is called with its path; what the line must hold of it, "{bad}" for its path; the mend.
FileRow = tuple[Make, Callable[[Path], object], str, str]


def ms3(split: str = "test") -> Callable[[Path], object]:
    return lambda bad: load_avsbench(bad, "ms3", split)


def as_frame(bad: Path) -> object:
    return read_frame(str(bad), "RGB")


def as_mask(bad: Path, encoding: str = "binary") -> object:
    return read_mask(str(bad), encoding)


def resnet_in_folder(path: Path, good: Good) -> None:
    path.mkdir()
    torch.save({"conv1.weight": torch.zeros(1)}, path / "resnet.pth")


FILES: dict[str, FileRow] = {
    "csv: none": (folder, ms3(), "{bad}/Multi-sources/ms3_meta_data.csv does not exist", "DETECTRON2_DATASETS"),
    "csv: binary": (tree_with(lambda t: (t / MS3).write_bytes(b"\xff\x00")), ms3(), "{bad}/" + MS3, "restore the file"),
    "csv: empty": (tree_with(lambda t: (t / MS3).write_text("")), ms3(), "lacks the column ['split']", "restore"),
    "csv: no such split": (tree_with(lambda t: None), ms3("trian"), "no clip with split 'trian'", "restore"),
    "csv: no name": (tree_with(row(MS3, ",test,,")), ms3(), "names no clip", "restore"),
    "csv: a path": (tree_with(row(MS3, "../../etc,test,,")), ms3(), "'../../etc', which leads out", "restore"),
    "csv: the root": (tree_with(row(MS3, "/etc/passwd,test,,")), ms3(), "'/etc/passwd', which leads out", "restore"),
    "csv: dots": (tree_with(row(MS3, "..,test,,")), ms3(), "'..', which leads out", "restore"),
    "csv: Windows's": (tree_with(row(MS3, "..\\a,test,,")), ms3(), "which leads out", "restore"),
    "csv: a huge field": (tree_with(row(MS3, "a" * 200_000)), ms3(), "cannot be read as a csv", "restore"),
    "frame: none": (nothing, as_frame, "{bad} does not exist", "extract the frames"),
    "frame: a folder": (folder, as_frame, "{bad} does not exist", "extract the frames"),
    "frame: empty": (holds(b""), as_frame, "{bad} cannot be read as an image", "extract the frame again"),
    "frame: cut": (part_of("frame"), as_frame, "{bad} cannot be read as an image", "extract the frame again"),
    "frame: no pixels": (holds(png_header(0, 9)), as_frame, "{bad} cannot be read as an image", "extract"),
    "frame: a bomb": (holds(png_header(60000, 60000)), as_frame, "{bad} has more pixels", "make the image smaller"),
    "frame: a small bomb": (holds(png_header(9000, 9000)), as_frame, "{bad} has more pixels", "make the image smaller"),
    "frame: PostScript": (
        holds("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        as_frame,
        "{bad} cannot",
        "extract",
    ),
    "mask: none": (nothing, as_mask, "{bad} does not exist", "restore the mask"),
    "mask: words": (holds("words"), as_mask, "{bad} cannot be read as a mask", "restore the mask"),
    "mask: a bomb": (holds(png_header(60000, 60000, 1, 0)), as_mask, "{bad} has more pixels", "make the image smaller"),
    "mask: ids in color": (
        image(mode="RGB"),
        lambda bad: as_mask(bad, "class_ids"),
        "{bad} cannot be read as a mask",
        "restore the mask",
    ),
    "mask: strange colors": (
        image(mode="RGB"),
        lambda bad: as_mask(bad, "palette"),
        "colors that stand for no class",
        "restore the mask",
    ),
    "mask: encoding": (image(), lambda bad: as_mask(bad, "foo"), "no encoding of masks 'foo'", "choose from binary"),
    "scores: words": (holds("words"), read_probability_map, "{bad} cannot be read as a mask", "write the prediction"),
    "wav: none": (nothing, load_audio, "{bad} does not exist", "extract the audio"),
    "wav: empty": (holds(b""), load_audio, "{bad} is no audio file", "extract the audio"),
    "wav: words": (holds("words" * 9), load_audio, "{bad} cannot be read as audio", "extract it again"),
    "wav: no sample": (sound(seconds=0), load_audio, "{bad} holds no sample", "extract the audio"),
    "wav: NaN": (sound(np.full(99, np.nan), subtype="FLOAT"), load_audio, "samples that are no numbers", "extract"),
    "wav: infinite": (sound(np.full(99, np.inf), subtype="FLOAT"), load_audio, "samples that are no num", "extract"),
    "wav: cut": (
        lambda path, good: path.write_bytes(wav_header(1, 16000)[:500]),
        load_audio,
        "{bad} is truncated",
        "extract",
    ),
    "wav: 4 GHz": (holds(wav_header(1, 4_000_000_000)), load_audio, "{bad}", "extract"),
    "wav: 1000 channels": (holds(wav_header(1000, 16000)), load_audio, "{bad} has 1000 channels", "extract the audio"),
    "wav: 0 Hz": (holds(wav_header(1, 0)), load_audio, "{bad}", "extract"),
    "wav: a day": (holds(wav_header(1, 1, 90_000)), load_audio, "{bad} announces 90000 s", "cut out the piece"),
    "log-mel: words": (holds("words"), load_log_mel_pickle, "{bad} is no pickled tensor", "provide the wav"),
    "log-mel: empty": (holds(b""), load_log_mel_pickle, "{bad} is no pickled tensor", "provide the wav"),
    "log-mel: none": (nothing, load_log_mel_pickle, "{bad} is no pickled tensor", "provide the wav"),
    "log-mel: a list": (pickled([1.0]), load_log_mel_pickle, "{bad} is no pickled tensor", "provide the wav"),
    "log-mel: flat": (pickled(torch.zeros(5, 96, 64)), load_log_mel_pickle, "{bad} holds (5, 96, 64)", "provide"),
    "log-mel: NaN": (pickled(torch.full((1, 1, 96, 64), np.nan)), load_log_mel_pickle, "no numbers", "provide the wav"),
    "log-mel: large": (holds(bytes(2**24 + 1)), load_log_mel_pickle, "{bad} is no pickled tensor (it has", "provide"),
    "video: none": (nothing, Video, "{bad} does not exist", "name a video"),
    "video: an object": (
        nothing,
        lambda bad: open_video(io.BytesIO(b"words" * 99)).__enter__(),
        "the given video",
        "copy",
    ),
    "sound: none": (nothing, lambda bad: SoundFile(bad, 1), "{bad} does not exist", "name an audio"),
    "sound: words": (holds("words" * 99), lambda bad: SoundFile(bad, 1), "{bad} cannot be read as sound", "name an"),
    "sound: an image": (image(), lambda bad: SoundFile(bad, 1), "{bad} holds no sound", "name another"),
    "upload: large": (holds(bytes(10**6 + 1)), Limits(1, 1).open, "larger than the 1 MB", "make it smaller"),
    "videos: an empty folder": (folder, lambda bad: find_videos([bad]), "{bad} holds no video", "name another"),
    "checkpoint: words": (holds("words"), read_checkpoint, "{bad} cannot be read", "name a good file"),
    "checkpoint: a number": (saves(3), read_checkpoint, "{bad} holds a int", "name a checkpoint"),
    "model: none": (nothing, lambda bad: load_model(bad, "cpu"), "{bad} does not exist", "name its file"),
    "model: device": (
        changed_checkpoint(),
        lambda bad: load_model(bad, "cuda:77"),
        "'cuda:77' cannot be used here",
        "name another",
    ),
    "model: unknown part": (
        changed_checkpoint(config="MODEL: {META_ARCHITECTURE: Foo}"),
        lambda bad: load_model(bad, "cpu"),
        "Foo",
        "import",
    ),
    "convert: kind": (nothing, lambda bad: convert_weights("foo", bad, bad), "no kind of weights 'foo'", "choose from"),
    "convert: shapes": (
        saves(
            {"encoder_backbone.patch_embed1.proj.weight": torch.zeros(1), "encoder_backbone.block1.0": torch.zeros(2)}
        ),
        lambda bad: convert_weights("torchvision", bad, bad.with_name("out")),
        "nothing in {bad}",
        "kind",
    ),
    "convert: into a folder": (
        resnet_in_folder,
        lambda bad: convert_weights("torchvision", bad / "resnet.pth", bad),
        "{bad} cannot be written",
        "name another",
    ),
    "cache: below a file": (
        holds(""),
        lambda bad: TensorCache(bad / "a", "KEY"),
        "{bad}/a cannot be used",
        "name anoth",
    ),
    "figure: kind": (nothing, check_figure_path, "{bad} ends in none of", "name such a file"),
    "run: no metrics": (folder, read_curves, "{bad}/metrics.json does not exist", "name the folder"),
    "run: no line of use": (
        lambda path, good: (path.mkdir(), (path / "metrics.json").write_text('[1]\n"a"\n{"iteration": "x"}\n3\n')),
        read_curves,
        "metrics.json holds no metric",
        "name the folder",
    ),
    "run: broken results": (
        lambda path, good: (path.mkdir(), (path / "results.json").write_text("{")),
        read_results,
        "results.json",
        "again",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_is_told_in_one_line(name: str, good: Good, tmp_path: Path):
    make, call, names, mend = FILES[name]
    bad = tmp_path / "bad"
    make(bad, good)
    assert_raises(lambda: call(bad), bad, names, mend)
