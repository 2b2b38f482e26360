"""A sound is heard at its own time, whatever the sample rate, the container, its first time stamp and the way to it."""

import json
import logging
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from helpers.videos import RedWhenLoud, make_video

from transavs.data.extract import read_wave
from transavs.demo.process_videos import Targets, segment_video
from transavs.inference.predictor import AVSPredictor
from transavs.media.audio_stream import SoundFile
from transavs.media.sources import open_source
from transavs.media.video_reader import Video
from transavs.media.video_writer import VideoWriter, sound_of

SECONDS, BEGIN, END = 6.0, 4.0, 5.0  # of a video, and of the tone in it
RATES = (16000, 22050, 44100, 48000)
# Container -> how exact its time stamps and its codec's beginning are, in seconds.
EXACT = {".mkv": 0.002, ".mp4": 0.01, ".ts": 0.03}
NETWORK_RATE = 16000


def tone(sample_rate: int, seconds: float = SECONDS, begin: float = BEGIN, end: float = END) -> np.ndarray:
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    return (0.5 * np.sin(2 * np.pi * 440 * time) * ((time >= begin) & (time < end))).astype(np.float32)


def make(folder: Path, suffix: str, sample_rate: int, offset: float = 0.0, **options) -> Path:
    path = folder / f"{sample_rate}_{offset:.0f}{suffix}"
    return make_video(
        path, seconds=SECONDS, sample_rate=sample_rate, wave=tone(sample_rate), offset=offset, frame_rate=20, **options
    )


def heard(blocks, sample_rate: int = NETWORK_RATE) -> tuple[float, float]:
    """Begin and end of what is loud, in seconds."""
    wave = np.concatenate([block.mean(0) for block in blocks])
    loud = np.flatnonzero(np.abs(wave) > 0.2)
    return loud[0] / sample_rate, (loud[-1] + 1) / sample_rate


@pytest.mark.parametrize("offset", [0.0, 30.0])
@pytest.mark.parametrize("suffix", EXACT)
@pytest.mark.parametrize("sample_rate", RATES)
def test_sound_is_heard_at_its_time(tmp_path: Path, sample_rate: int, suffix: str, offset: float):
    """From a file, a part of it, a file that is followed, and by extraction; the stamps may begin late."""
    path, near = make(tmp_path, suffix, sample_rate, offset), EXACT[suffix] + 0.002
    assert heard(Video(path).sound(NETWORK_RATE)) == pytest.approx((BEGIN, END), abs=near)
    assert heard([read_wave(Video(path))[None]]) == pytest.approx((BEGIN, END), abs=near)
    for start in (1.0, 3.35):
        part = Video(path, start=start, end=5.5)
        expected = (BEGIN - start, END - start)
        assert heard(part.sound(NETWORK_RATE)) == pytest.approx(expected, abs=near)
        assert sum(block.shape[1] for block in part.sound(NETWORK_RATE)) <= (5.5 - start) * NETWORK_RATE
    with open_source(str(path), patience=0.2) as followed:
        blocks = followed.sound(NETWORK_RATE)
        assert len(list(followed.frames())) == SECONDS * 20
        assert heard(blocks) == pytest.approx((BEGIN, END), abs=near)


@pytest.mark.parametrize("sample_rate", RATES)
def test_a_part_has_the_masks_of_the_same_seconds_of_the_whole(tmp_path: Path, sample_rate: int):
    path = make(tmp_path, ".mkv", sample_rate)
    marked = []
    for start in (0.0, 2.0):
        target = tmp_path / f"{start}.json"
        segment_video(AVSPredictor(RedWhenLoud()), path, Targets(coco=target), rate=2, start=start)
        found = json.loads(target.read_text())
        on = {annotation["image_id"] for annotation in found["annotations"]}
        marked.append([round(image["time"] + start, 2) for image in found["images"] if image["id"] in on])
    assert marked[0] == marked[1] == [4.25, 4.75]


def test_written_sound_is_at_its_time(tmp_path: Path):
    """Of a part, at a rate that the encoder has to be given less of."""
    source = Video(make(tmp_path, ".mkv", 96000, audio_codec="pcm_f32le"), start=1.5)
    with VideoWriter(tmp_path / "out.mkv", (48, 80), 20, **sound_of(source)) as writer:
        for frame in source.frames():
            writer.write(frame.pixels(), frame.time)
    assert heard(Video(tmp_path / "out.mkv").sound(NETWORK_RATE)) == pytest.approx((BEGIN - 1.5, END - 1.5), abs=0.03)


@pytest.mark.parametrize("offset", [0.0, 30.0])
@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".mov", ".ts", ".flv", ".mpg", ".webm"])
def test_the_duration_counts_from_the_first_frame(tmp_path: Path, suffix: str, offset: float, caplog):
    codecs = {".webm": ("libvpx", "libopus"), ".mpg": ("mpeg2video", "mp2")}.get(suffix, ("libx264", "aac"))
    options = {"codec": codecs[0], "audio_codec": codecs[1], "sample_rate": 48000, "frame_rate": 25}
    path = make_video(tmp_path / f"a{suffix}", seconds=SECONDS, offset=offset, **options)
    video = Video(path)
    assert video.duration == pytest.approx(SECONDS, abs=0.1)
    with caplog.at_level(logging.WARNING):
        assert len(list(video.frames())) == SECONDS * 25
        assert sum(block.shape[1] for block in video.sound(NETWORK_RATE)) / NETWORK_RATE == pytest.approx(6, abs=0.1)
    assert "damaged" not in caplog.text


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_avi_gives_all_frames_at_their_times(tmp_path: Path, codec: str):
    """AVI has decoding time stamps alone."""
    path = make_video(
        tmp_path / "a.avi",
        seconds=2,
        codec=codec,
        audio_codec="pcm_s16le",
        sample_rate=48000,
        frame_rate=20,
        image_of=lambda number: np.full((48, 80, 3), 6 * number, np.uint8),
    )
    frames = list(Video(path).frames())
    assert [round(frame.time * 20, 3) for frame in frames] == list(range(40))
    levels = [float(frame.pixels().mean()) for frame in frames]
    assert levels == sorted(levels)
    part = list(Video(path, start=1.0).frames())
    assert len(part) == 20
    assert part[0].pixels().mean() == pytest.approx(levels[20], abs=1)


def test_raw_pictures_are_numbered_by_their_rate(tmp_path: Path):
    with av.open(str(tmp_path / "raw.h264"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for number in range(50):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 4 * number, np.uint8), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    video = Video(tmp_path / "raw.h264", needs_sound=False)
    assert [round(frame.time * 25, 2) for frame in video.frames()] == list(range(50))
    assert video.duration == pytest.approx(2, abs=0.05)
    assert len(list(Video(tmp_path / "raw.h264", start=1.0, needs_sound=False).frames())) == 25


@pytest.mark.parametrize("follow", [False, True])
def test_a_file_put_together_of_two_goes_on_after_the_first(tmp_path: Path, follow: bool):
    """Its time stamps begin anew in the middle; neither frames nor sound are lost."""
    one = make(tmp_path, ".ts", 44100)
    path = tmp_path / "two.ts"
    path.write_bytes(one.read_bytes() * 2)
    with open_source(str(path), **({"patience": 0.2} if follow else {})) as video:
        blocks = video.sound(NETWORK_RATE)
        times = [frame.time for frame in video.frames()]
        assert len(times) == pytest.approx(2 * SECONDS * 20, abs=1)
        assert np.diff(times) == pytest.approx(0.05, abs=0.03)
        begin, end = heard(blocks)
    assert begin == pytest.approx(BEGIN, abs=0.03)
    assert end == pytest.approx(SECONDS + END, abs=0.1)


def test_frames_that_step_back_are_told_by_number(tmp_path: Path, caplog):
    times = [0, 0.1, 0.2, 0.3, 0.4]
    path = make_video(tmp_path / "a.mkv", seconds=0.5, times=times, codec="mpeg4")
    data = path.read_bytes()
    video = Video(path)
    stamps = iter([0.0, 0.1, 0.1, 0.05, 0.4])

    def decoded(kind: str):
        for frame, stamp in zip(Video._decoded(video, kind), stamps, strict=False):
            frame.pts = round(stamp / frame.time_base)
            yield frame

    video._decoded = decoded
    with caplog.at_level(logging.WARNING):
        assert [round(frame.time, 2) for frame in video.frames()] == [0.0, 0.1, 0.4]
    assert "2 frames are left out" in caplog.text
    assert path.read_bytes() == data


def write_tracks(path: Path, default: int, sample_rate: int = 44100) -> Path:
    """A video with two sound tracks, of which the second alone is loud, and one of them is the default."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mpeg4", rate=20)
        picture.height, picture.width, picture.pix_fmt = 48, 64, "yuv420p"
        tracks = [container.add_stream("aac", rate=sample_rate, layout="mono") for _ in range(2)]
        for number, track in enumerate(tracks):
            track.disposition = av.stream.Disposition.default if number == default else av.stream.Disposition(0)
        for number, track in enumerate(tracks):
            wave = number * tone(sample_rate)
            frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = sample_rate, 0, Fraction(1, sample_rate)
            for packet in [*track.encode(frame), *track.encode(None)]:
                container.mux(packet)
        for number in range(120):
            image = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            image.pts, image.time_base = number, Fraction(1, 20)
            container.mux(picture.encode(image))
        container.mux(picture.encode(None))
    return path


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize("default", [0, 1])
def test_the_default_track_is_heard(tmp_path: Path, suffix: str, default: int):
    path = write_tracks(tmp_path / f"a{suffix}", default)
    for source in (Video(path), SoundFile(path, SECONDS)):
        loudest = max(float(np.abs(block).max()) for block in source.sound(NETWORK_RATE))
        assert (loudest > 0.2) is bool(default)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_samples_that_are_no_numbers_stay_where_they_are(tmp_path: Path, value: float):
    """They become silence or full scale, and nothing around them changes."""
    wave = tone(48000)
    wave[48000] = value
    soundfile.write(tmp_path / "a.wav", wave, 48000, subtype="FLOAT")
    for layout in (None, "stereo"):
        found = np.concatenate(list(SoundFile(tmp_path / "a.wav", SECONDS).sound(NETWORK_RATE, layout)), 1)
        assert np.isfinite(found).all()
        assert np.abs(found).max() <= 1
        assert heard([np.delete(found, np.s_[15900:16100], 1)]) == pytest.approx(
            (BEGIN - 0.0125, END - 0.0125), abs=0.002
        )


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 7, 8, 9, 11, 13, 16, 24])
def test_any_number_of_channels_is_mixed(tmp_path: Path, channels: int):
    wave = np.tile(0.5 * tone(22050)[:, None], (1, channels))
    soundfile.write(tmp_path / "a.wav", wave, 22050)
    for layout, count in ((None, channels), ("mono", 1), ("stereo", 2), ("5.1", 6)):
        found = np.concatenate(list(SoundFile(tmp_path / "a.wav", SECONDS).sound(NETWORK_RATE, layout)), 1)
        assert found.shape == (count, SECONDS * NETWORK_RATE)
        loud = np.abs(found.mean(0)) > 0.01
        assert not loud[: round(3.9 * NETWORK_RATE)].any()
        assert loud[round(BEGIN * NETWORK_RATE) : round(END * NETWORK_RATE)].mean() > 0.1


@pytest.mark.parametrize("sample_rate", [4000, 6000, 11127, 18900, 37800, 64000, 96000])
def test_sound_of_any_rate_is_written(tmp_path: Path, sample_rate: int):
    """At the encoder's next rate above, up to 48 kHz."""
    soundfile.write(tmp_path / "a.wav", tone(sample_rate), sample_rate)
    written = sound_of(SoundFile(tmp_path / "a.wav", SECONDS))
    assert min(sample_rate, 48000) <= written["sample_rate"] <= 48000
    with VideoWriter(tmp_path / "a.mp4", (48, 64), 1, **written) as writer:
        for second in range(int(SECONDS)):
            writer.write(np.zeros((48, 64, 3), np.uint8), second)
    assert heard(Video(tmp_path / "a.mp4").sound(NETWORK_RATE)) == pytest.approx((BEGIN, END), abs=0.05)


def test_a_sound_with_a_hole_keeps_its_time(tmp_path: Path):
    """In a file that is heard in place of a video's own sound, as in the video."""
    sample_rate, wave = 44100, tone(44100)
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        track = container.add_stream("pcm_s16le", rate=sample_rate, layout="mono")
        for first in range(0, len(wave), 1050):
            if not 1 <= first / sample_rate < 3:
                samples = (32767 * wave[first : first + 1050]).astype(np.int16)[None]
                frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = sample_rate, first, Fraction(1, sample_rate)
                container.mux(track.encode(frame))
        container.mux(track.encode(None))
    shutil.copy(tmp_path / "a.mkv", tmp_path / "b.mkv")
    assert heard(SoundFile(tmp_path / "b.mkv", SECONDS).sound(NETWORK_RATE)) == pytest.approx((BEGIN, END), abs=0.005)
