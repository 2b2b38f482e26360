"""Odd videos: what is read from them, and what is said of those that cannot be."""

import io
import logging
from pathlib import Path

import av
import numpy as np
import pytest
from helpers.videos import RedWhenLoud, beeps, make_video, red_corner
from PIL import Image

from transavs.inference.predictor import AVSPredictor
from transavs.media.audio_stream import SoundAround
from transavs.media.frames import VideoFrame, sample_frames
from transavs.media.video_reader import Video, open_video
from transavs.media.video_writer import VideoWriter, sound_of
from transavs.utils.errors import AVSInputError

VARIABLE_RATE = [0, 0.04, 0.08, 0.5, 0.52, 0.9, 1.4, 1.45, 2.2, 2.5, 2.9]

ODD_INPUTS = {
    "mono at 8 kHz": ("a.mp4", {"sample_rate": 8000}),
    "5.1": ("a.mkv", {"layout": "5.1", "sample_rate": 44100}),
    "stereo at 48 kHz": ("a.mov", {"layout": "stereo", "sample_rate": 48000}),
    "variable frame rate": ("a.mkv", {"times": VARIABLE_RATE}),
    "portrait": ("a.mp4", {"rotation": -90}),
    "upside down": ("a.mp4", {"rotation": 180}),
    "odd sizes": ("a.mp4", {"size": (51, 77)}),
    "tiny": ("a.mkv", {"size": (16, 18)}),
    "high and narrow": ("a.mp4", {"size": (160, 34)}),
    "10 frames a second": ("a.mp4", {"frame_rate": 10}),
    "MPEG-4 and PCM in AVI": ("a.avi", {"codec": "mpeg4", "audio_codec": "pcm_s16le"}),
    "VP9 and Opus": ("a.webm", {"codec": "libvpx-vp9", "audio_codec": "libopus", "sample_rate": 48000}),
    "time stamps from 100 s": ("a.mkv", {"offset": 100.0}),
    "MPEG-TS": ("a.ts", {}),
}


@pytest.mark.parametrize("name", ODD_INPUTS)
def test_odd_videos_are_marked_where_and_when_they_sound(name: str, tmp_path: Path):
    file, options = ODD_INPUTS[name]
    path = make_video(tmp_path / file, **options)
    size = options.get("size", (48, 80))
    turns = options.get("rotation", 0) // 90
    expected = np.rot90(red_corner(*size)[..., 0] > 0, turns)

    frames = [frame for clip in AVSPredictor(RedWhenLoud()).predict_video(path, 2) for frame in clip.frames]
    assert len(frames) == 6
    for frame in frames:
        middle = frame.time % 1
        if not 0.1 < middle < 0.9:
            continue  # near a second's border both sounds are around it
        mask = frame.mask() > 0
        assert mask.shape == expected.shape
        if int(frame.time) % 2:
            assert frame.loudness < -20 or middle != pytest.approx(0.5, abs=0.15)
            assert not mask.any()
        else:
            # Edges are soft at 32 pixels, and the codecs' are too.
            assert (mask & expected).sum() / (mask | expected).sum() > 0.85


@pytest.mark.parametrize("rate", [0, 1, 5])
def test_frames_are_sampled_in_the_middle_of_intervals(rate: float, tmp_path: Path):
    video = Video(make_video(tmp_path / "a.mkv", times=VARIABLE_RATE))
    found = [round(frame.time, 2) for frame in sample_frames(video, rate)]
    # Shown at 0.5, 1.5, 2.5 s; or at 0.1, 0.3, ... s, where a frame that stays is not given twice.
    expected = {0: VARIABLE_RATE, 1: [0.5, 1.45, 2.5], 5: [0.08, 0.5, 0.52, 0.9, 1.45, 2.2, 2.5, 2.9]}[rate]
    assert found == [pytest.approx(time, abs=0.002) for time in expected]


def test_every_frame_is_seen_before_it_is_sampled(tmp_path: Path):
    path = make_video(tmp_path / "a.mp4", seconds=4, frame_rate=10)
    for given, rate in ((path, 0), (Video(path), 1)):
        seen: list[VideoFrame] = []
        for clip in AVSPredictor(RedWhenLoud()).predict_video(given, rate, seen=seen.append):
            assert [frame.index for frame in seen] == list(range(len(seen)))
            assert seen[-1].index >= clip.frames[-1].index
        assert len(seen) == 40


def test_a_video_shorter_than_half_a_second_gives_one_mask(tmp_path: Path):
    path = make_video(tmp_path / "a.mp4", seconds=0.4, wave=beeps(1, 16000)[: int(0.4 * 16000)])
    (clip,) = AVSPredictor(RedWhenLoud()).predict_video(path, 1)
    (frame,) = clip.frames
    assert (frame.index, frame.size) == (9, (48, 80))
    assert -20 < frame.loudness < -10


def test_sound_starts_with_the_first_frame_whatever_the_time_stamps_say(tmp_path: Path):
    wave = np.zeros(3 * 16000, dtype=np.float32)
    wave[16000:16160] = 0.8
    for name, options in {"a.mkv": {"offset": 7.0}, "b.ts": {}, "c.mp4": {"sample_rate": 16000}}.items():
        video = Video(make_video(tmp_path / name, wave=wave, **options))
        sound = np.concatenate(list(video.sound(16000)), 1)[0]
        assert np.argmax(np.abs(sound)) == pytest.approx(16000 + 80, abs=400), name  # a frame of 25 lasts 640


def test_gaps_in_the_sound_are_silence(tmp_path: Path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.height, video.width, video.pix_fmt = 48, 80, "yuv420p"
        audio = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        for start in (0, 2):  # nothing from 1 s to 2 s
            frame = av.AudioFrame.from_ndarray(np.full((1, 16000), 9000, np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = 16000, start * 16000
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
        for _ in range(75):
            container.mux(video.encode(av.VideoFrame.from_ndarray(red_corner(48, 80))))
        container.mux(video.encode(None))
    sound = np.concatenate(list(Video(path).sound(16000)), 1)[0]
    levels = [np.abs(sound[int(at * 16000)]) > 0.1 for at in (0.5, 1.2, 1.8, 2.5)]
    assert levels == [True, False, False, True]


def test_sound_around_equals_slices_of_the_whole(tmp_path: Path):
    rng = np.random.default_rng(0)
    sound = rng.standard_normal((2, 3210)).astype(np.float32)
    whole = np.concatenate([np.zeros(100), sound.mean(0), np.zeros(1000)])
    for piece in (7, 100, 5000):
        around = SoundAround([sound[:, start : start + piece] for start in range(0, 3210, piece)], 100)
        for time in (0, 0.3, 0.31, 4.7, 20.0, 31.9, 33.0):
            start = round((time - 0.5) * 100) + 100
            np.testing.assert_allclose(around(time), whole[start : start + 100], rtol=1e-6)


def test_a_file_object_and_a_path_give_the_same(tmp_path: Path):
    path = make_video(tmp_path / "a.mp4")
    predictor = AVSPredictor(RedWhenLoud())
    by_path = [frame.mask() for clip in predictor.predict_video(path) for frame in clip.frames]
    with open(path, "rb") as file:
        by_file = [frame.mask() for clip in predictor.predict_video(file) for frame in clip.frames]
    np.testing.assert_array_equal(by_path, by_file)


def cut(path: Path, share: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    return path


def test_what_a_truncated_video_holds_is_used_and_the_rest_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 10 * 16000).astype(np.float32)
    path = cut(make_video(tmp_path / "a.mkv", seconds=10, wave=noise), 0.5)
    with caplog.at_level(logging.WARNING):
        frames = [frame for clip in AVSPredictor(RedWhenLoud()).predict_video(path) for frame in clip.frames]
    assert 0 < len(frames) < 10
    assert "cut short" in caplog.text
    assert str(path) in caplog.text


def test_damage_in_the_middle_costs_no_more_than_what_is_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = make_video(tmp_path / "a.ts", seconds=6)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        times = [frame.time for clip in AVSPredictor(RedWhenLoud()).predict_video(path) for frame in clip.frames]
    assert times[-1] > 5


def no_sound(path: Path) -> Path:
    return make_video(path, sound=False)


def sound_only(path: Path) -> Path:
    return make_video(path, picture=False)


def image(path: Path) -> Path:
    Image.fromarray(red_corner(40, 40)).save(path, format="PNG")
    return path


def cut_mp4(path: Path) -> Path:
    return cut(make_video(path), 0.6)  # the index stands at the end


def empty(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def text(path: Path) -> Path:
    path.write_text("not a video\n" * 50)
    return path


BAD_INPUTS = {
    "no sound": (no_sound, "holds no sound track"),
    "sound only": (sound_only, "holds no moving picture"),
    "image": (image, "is an image"),
    "truncated": (cut_mp4, "damaged or cut short"),
    "empty": (empty, "is empty"),
    "text": (text, "cannot be read as a video"),
    "missing": (lambda path: path, "does not exist"),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_what_is_no_video_with_sound_is_told_in_one_line(name: str, tmp_path: Path):
    make, message = BAD_INPUTS[name]
    path = make(tmp_path / "bad.mp4")
    with pytest.raises(AVSInputError, match=message) as caught:
        Video(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bad_file_object_is_named_by_its_name():
    file = io.BytesIO(b"nothing")
    file.name = "upload.mp4"
    with pytest.raises(AVSInputError, match=r"^upload\.mp4 "), open_video(file):
        pass


@pytest.mark.parametrize("size", [(48, 80), (51, 77)])
def test_a_written_video_keeps_picture_sound_and_times(size: tuple[int, int], tmp_path: Path):
    source = Video(make_video(tmp_path / "a.mkv", size=size, times=VARIABLE_RATE, layout="stereo", sample_rate=44100))
    with VideoWriter(tmp_path / "b.mp4", size, source.frame_rate, **sound_of(source)) as writer:
        for frame in source.frames():
            writer.write(frame.pixels(), frame.time)
    copy = Video(tmp_path / "b.mp4")
    assert (copy.channels, copy.sample_rate) == (2, 44100)
    assert (copy.height, copy.width) == (size[0] + size[0] % 2, size[1] + size[1] % 2)
    frames = list(copy.frames())
    assert [frame.time for frame in frames] == pytest.approx(VARIABLE_RATE, abs=0.002)
    difference = frames[3].pixels()[: size[0], : size[1]].astype(int) - red_corner(*size)
    assert np.abs(difference).mean() < 6
    heard, written = (np.concatenate(list(video.sound(16000)), 1).mean(0) for video in (source, copy))
    length = min(len(heard), len(written))
    lags = np.correlate(written[:length], heard[:length][800:-800], "valid")
    assert abs(np.argmax(lags) - 800) < 640  # a frame of 25 lasts 640 samples
    assert not list(tmp_path.glob(".*"))


def test_a_video_that_breaks_off_leaves_nothing(tmp_path: Path):
    source = Video(make_video(tmp_path / "a.mkv"))
    wrong_size = red_corner(10, 10)[:, :, :1]
    with (
        pytest.raises(ValueError, match="shape"),
        VideoWriter(tmp_path / "b.mp4", (48, 80), 25, **sound_of(source)) as writer,
    ):
        writer.write(wrong_size, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mkv"]


def test_a_video_of_unknown_suffix_is_not_begun(tmp_path: Path):
    with pytest.raises(AVSInputError, match=r"\.mp4, \.mov, \.mkv"):
        VideoWriter(tmp_path / "b.gif", (48, 80), 25, [], sample_rate=16000, channels=1)
