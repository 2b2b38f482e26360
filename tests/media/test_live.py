"""Live sources, of which frames and sound are read while they are sent."""

import time
from pathlib import Path

import numpy as np
import pytest
from helpers.senders import blinking_video, into_a_file, over_http, over_rtsp, over_tcp, over_udp, serving
from helpers.videos import RedWhenLoud

from transavs.inference.predictor import AVSPredictor
from transavs.media import sources
from transavs.media.live import MAX_LATENCY, LiveVideo
from transavs.media.sources import open_source
from transavs.utils.errors import AVSInputError

LONG_ENOUGH = 3.5  # seconds
SENDERS = {"tcp": over_tcp, "http": over_http, "udp": over_udp, "rtsp": over_rtsp, "file": into_a_file}


def read_all(video: LiveVideo) -> tuple[list[tuple[float, float]], np.ndarray]:
    """(time, brightness) of each frame until LONG_ENOUGH, and the sound at 16 kHz."""
    sound, heard, frames = video.sound(16000, "mono"), np.zeros(0), []
    for frame in video.frames():
        frames.append((frame.time, float(frame.pixels()[40:].mean())))
        while len(heard) < 16000 * frame.time and (block := next(sound, None)) is not None:
            heard = np.concatenate([heard, block[0]])
        if frame.time > LONG_ENOUGH:
            video.stop()  # the end of what comes by UDP is that nothing comes for ten seconds
    return frames, np.concatenate([heard, *(block[0] for block in sound)])


@pytest.mark.parametrize("sender", SENDERS)
def test_frames_and_sound_of_each_kind_of_source(sender: str, tmp_path: Path):
    source = blinking_video(tmp_path / "a.mp4", seconds=4)
    began = time.monotonic()
    with SENDERS[sender](source) as name, open_source(name, patience=1.0 if sender == "file" else None) as video:
        frames, sound = read_all(video)
    assert time.monotonic() - began > 3  # it is sent in real time
    assert (video.height, video.width) == (64, 96)
    assert len(frames) > 60  # a receiver may be late, and begins with a key frame
    assert video.lost == 0
    for at, brightness in frames:
        piece = sound[max(0, round(16000 * (at - 0.05))) : round(16000 * (at + 0.05))]
        if len(piece) == 1600 and piece.std() > 0.3:
            assert brightness > 100
        if len(piece) == 1600 and piece.std() < 0.01:
            assert brightness < 100


def test_a_slow_model_is_late_by_so_much_and_no_more(tmp_path: Path):
    class Slow(RedWhenLoud):
        takes_any_length = True

        def __init__(self) -> None:
            super().__init__(num_frames=1)

        def __call__(self, *clips):
            time.sleep(0.5)
            return super().__call__(*clips)

    source = blinking_video(tmp_path / "a.mp4", seconds=6)
    behind, times = [], []
    with over_tcp(source) as name, open_source(name) as video:
        for clip in AVSPredictor(Slow()).predict_video(video, 5):
            (frame,) = clip.frames  # one at once
            behind.append(video.newest - frame.time)
            times.append(frame.time)
    assert max(behind) < MAX_LATENCY + 1.0
    assert video.dropped > 5
    assert video.dropped + len(times) == pytest.approx(30, abs=1)
    assert times[-1] > 4.5  # to the end


def test_a_sound_that_breaks_off_is_silence(tmp_path: Path):
    tone = 0.5 * np.sin(np.arange(2 * 16000) / 5).astype(np.float32)
    source = blinking_video(tmp_path / "a.mp4", seconds=5, wave=tone)
    with over_tcp(source) as name, open_source(name) as video:
        frames, sound = read_all(video)
    assert len(frames) > 80
    assert sound[:31000].std() > 0.3
    assert sound[33000:].std() < 0.01
    assert len(sound) > 16000 * (LONG_ENOUGH - 1.2)


def test_what_has_no_sound_needs_another(tmp_path: Path):
    source = blinking_video(tmp_path / "a.mp4", seconds=3, sound=False)
    with (
        over_tcp(source) as name,
        pytest.raises(AVSInputError, match="holds no sound track: give a sound with --audio"),
    ):
        open_source(name)
    with over_tcp(source) as name, open_source(name, needs_sound=False) as video:
        frames, sound = read_all(video)
    assert len(frames) == 75
    assert len(sound) > 16000
    assert not sound.any()


def test_camera_and_microphone_are_read_side_by_side(monkeypatch: pytest.MonkeyPatch):
    # FFmpeg's generated devices stand in for those of the machine.
    monkeypatch.setattr(sources, "PICTURE_DEVICE", "lavfi")
    monkeypatch.setattr(sources, "SOUND_DEVICE", "lavfi")
    monkeypatch.setattr(sources, "FIRST_CAMERA", "testsrc=size=96x64:rate=20")
    monkeypatch.setattr(sources, "MICROPHONE", "sine=frequency=440:sample_rate=16000")
    began, seen = time.monotonic(), []
    with open_source("camera") as video:
        sound = video.sound(16000)
        for frame in video.frames():
            seen.append(frame.time)
            if frame.time > 2:
                video.stop()
        heard = np.concatenate([block[0] for block in sound])
    assert time.monotonic() - began > 0.9  # they are no faster than real time, but for a second at first
    assert seen[:40] == pytest.approx(np.arange(40) / 20)
    assert len(heard) > 16000
    assert np.abs(np.fft.rfft(heard[:16000])).argmax() == 440


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("camera", "/dev/video0"),
        ("/dev/video7", "/dev/video7"),
        ("tcp://127.0.0.1:1", "tcp://127.0.0.1:1 cannot be read"),
        ("rtsp://somebody:secret@127.0.0.1:1/a", "rtsp://127.0.0.1:1/a cannot be read"),
        ("concat://a|b", "concat://a|b is of a kind that is not read: give one of rtsp"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(name: str, message: str):
    with pytest.raises(AVSInputError) as raised:
        open_source(name)
    assert message in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_playlist_of_a_server_cannot_name_files_of_this_machine(tmp_path: Path):
    secret = blinking_video(tmp_path / "secret.ts", seconds=2)

    def answer(connected) -> None:
        connected.recv(4096)
        playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile://{secret}\n#EXT-X-ENDLIST\n"
        connected.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: application/x-mpegurl\r\n\r\n" + playlist.encode())

    with serving(answer) as port, pytest.raises(AVSInputError):
        open_source(f"http://127.0.0.1:{port}/list.m3u8")


def test_a_file_that_cannot_be_read_before_it_is_whole(tmp_path: Path):
    whole = blinking_video(tmp_path / "a.mp4", seconds=1).read_bytes()
    (tmp_path / "b.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AVSInputError, match=r"b\.mp4 cannot be read while it grows .*write \.ts"):
        open_source(str(tmp_path / "b.mp4"), patience=0.2)
    with pytest.raises(AVSInputError, match="leave out --start and --end"):
        open_source(str(tmp_path / "b.mp4"), patience=0.2, start=1.0)
