"""The picture of a video as players show it: turned, mirrored, stretched, and in its colors, read and written."""

import io
import multiprocessing
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from helpers.videos import RedWhenLoud, make_video
from PIL import Image

from transavs.demo.process_videos import Targets, segment_video
from transavs.inference.predictor import AVSPredictor
from transavs.media.frames import VideoFrame
from transavs.media.sources import open_source
from transavs.media.video_reader import Video
from transavs.media.video_writer import VideoWriter

SIZE = (48, 80)
ORIENTATIONS = [(a, 0, 0, d) for a in (1, -1) for d in (1, -1)] + [(0, b, c, 0) for b in (1, -1) for c in (1, -1)]
SILENT = {"sound": [], "sample_rate": 16000, "channels": 1}


def blocks(height: int, width: int) -> np.ndarray:
    """Gray blocks of 16 pixels, each of a level of its own."""
    rows, columns = height // 16, width // 16
    levels = np.linspace(20, 240, rows * columns).astype(np.uint8).reshape(rows, columns)
    return np.repeat(np.kron(levels, np.ones((16, 16), np.uint8))[..., None], 3, axis=-1)


@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_frames_are_turned_and_mirrored_as_players_do(matrix: tuple[int, ...], tmp_path: Path):
    path = make_video(tmp_path / "a.mp4", seconds=0.2, image_of=lambda _: blocks(*SIZE), matrix=matrix)
    stored = blocks(*SIZE)
    a, b, c, d = matrix
    y, x = np.indices(SIZE)
    columns, rows = a * x + c * y, b * x + d * y
    columns, rows = columns - columns.min(), rows - rows.min()
    expected = np.zeros((rows.max() + 1, columns.max() + 1, 3), dtype=np.uint8)
    expected[rows, columns] = stored[y, x]
    for followed in (False, True):
        with open_source(str(path), patience=1.0 if followed else None) as video:
            frame = next(iter(video.frames()))
            assert (video.height, video.width) == frame.pixels().shape[:2] == expected.shape[:2]
            assert np.abs(frame.pixels().astype(int) - expected).max() < 8


def test_pictures_that_a_camera_turned_are_upright(tmp_path: Path):
    """FFmpeg hands on the EXIF data of a JPEG, a kind of data that PyAV does not know."""
    exif = Image.Exif()
    exif[0x0112] = 6
    jpeg = io.BytesIO()
    Image.fromarray(blocks(*SIZE)).save(jpeg, "JPEG", exif=exif, quality=95)
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=5)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuvj420p"
        for number in range(3):
            packet = av.Packet(jpeg.getvalue())
            packet.pts = packet.dts = number
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 5), stream, True
            container.mux(packet)
    frame = next(Video(path, needs_sound=False).frames())
    assert np.abs(frame.pixels().astype(int) - np.rot90(blocks(*SIZE), -1)).max() < 8


@pytest.mark.parametrize(("matrix", "turned"), [((), False), ((0, 1, -1, 0), True)])
@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_the_aspect_of_pixels_is_kept(matrix: tuple[int, ...], turned: bool, suffix: str, tmp_path: Path):
    aspect = Fraction(16, 11)
    path = make_video(tmp_path / "a.mp4", pixel_aspect=aspect, matrix=matrix)
    segment_video(AVSPredictor(RedWhenLoud()), str(path), Targets(tmp_path / f"b{suffix}"), rate=1)
    with av.open(str(tmp_path / f"b{suffix}")) as container:
        assert container.streams.video[0].sample_aspect_ratio == (1 / aspect if turned else aspect)


COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "skin": (220, 170, 140), "white": (255,) * 3}
# Kr and Kb of BT.601 and BT.709, and FFmpeg's numbers of these matrices.
STANDARDS = {"601": (0.299, 0.114, 6), "709": (0.2126, 0.0722, 1)}


def to_yuv(color: tuple[int, int, int], standard: str, full: bool) -> list[float]:
    """Y, Cb and Cr of 8 bits by the standard's formula."""
    kr, kb, _ = STANDARDS[standard]
    red, green, blue = np.array(color) / 255
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    chroma = [(blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)]
    if full:
        return [255 * luma, *(255 * part + 128 for part in chroma)]
    return [219 * luma + 16, *(224 * part + 128 for part in chroma)]


@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize(("size", "standard"), [((48, 64), "601"), ((720, 1280), "709")])
def test_written_colors_are_those_of_the_standard_that_the_file_names(
    color: str, size: tuple[int, int], standard: str, tmp_path: Path
):
    with VideoWriter(tmp_path / "a.mp4", size, 5, **SILENT) as writer:
        writer.write(np.broadcast_to(np.uint8(COLORS[color]), (*size, 3)), 0.0)
    with av.open(str(tmp_path / "a.mp4")) as container:
        frame = next(container.decode(video=0))
    tag = STANDARDS[standard][2]
    assert (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc) == (tag, 1, tag, tag)
    found = [bytes(plane)[0] for plane in frame.planes]
    assert found == pytest.approx(to_yuv(COLORS[color], standard, full=False), abs=2)
    pixels = next(Video(tmp_path / "a.mp4", needs_sound=False).frames()).pixels()
    assert np.abs(pixels[9, 9].astype(int) - COLORS[color]).max() <= 4


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("standard", STANDARDS)
@pytest.mark.parametrize("size", [(48, 64), (720, 1280)])
def test_colors_are_read_by_the_standard_that_the_file_names(
    size: tuple[int, int], standard: str, full: bool, tmp_path: Path
):
    for name, color in COLORS.items():
        path = str(tmp_path / f"{name}.mkv")
        with av.open(path, "w") as container:
            stream = container.add_stream("libx264", rate=5, options={"crf": "1"})
            stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
            stream.codec_context.colorspace = STANDARDS[standard][2]
            stream.codec_context.color_range = 2 if full else 1
            frame = av.VideoFrame(size[1], size[0], "yuv420p")
            for plane, level in zip(frame.planes, to_yuv(color, standard, full), strict=True):
                plane.update(bytes([min(255, round(level))]) * plane.buffer_size)
            frame.pts = 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        pixels = next(Video(path, needs_sound=False).frames()).pixels()
        assert np.abs(pixels[9, 9].astype(int) - color).max() <= 4, name


def test_a_worker_converts_frames_after_its_parent_did(tmp_path: Path):
    def convert(frame: VideoFrame) -> None:
        assert frame.pixels().shape == (720, 1280, 3)

    frame = next(Video(make_video(tmp_path / "a.mp4", seconds=0.2, size=(720, 1280))).frames())
    convert(frame)
    worker = multiprocessing.get_context("fork").Process(target=convert, args=(frame,))
    worker.start()
    worker.join(60)
    hangs = worker.is_alive()
    worker.kill()
    assert not hangs
    assert worker.exitcode == 0
