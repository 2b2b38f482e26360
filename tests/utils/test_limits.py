"""What is read of one file at most, and of that file alone."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.bad_inputs import png_header, wav_header
from helpers.repository import REPOSITORY
from helpers.videos import make_video

from transavs import AVSInputError
from transavs.media.audio_file import load_audio
from transavs.media.audio_stream import SoundFile
from transavs.media.images import read_frame, read_mask
from transavs.media.video_reader import Video

PLAYLISTS = {
    "concat": "ffconcat version 1.0\nfile secret.mp4\n",
    "concat by path": "ffconcat version 1.0\nfile {secret}\n",
    "HLS": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.mp4\n#EXT-X-ENDLIST\n",
    "HLS by address": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{secret}\n#EXT-X-ENDLIST\n",
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_playlist_opens_no_other_file(kind: str, tmp_path: Path):
    secret = make_video(tmp_path / "secret.mp4", seconds=1)
    (tmp_path / "upload.mp4").write_text(PLAYLISTS[kind].format(secret=secret))
    for read in (Video, lambda path: SoundFile(path, 1)):
        with pytest.raises(AVSInputError):
            read(tmp_path / "upload.mp4")


def test_giant_frames_are_refused_by_the_header(tmp_path: Path):
    """Of pictures without a codec the container alone tells the size."""
    path = make_video(tmp_path / "a.avi", seconds=1, codec="rawvideo", audio_codec="pcm_s16le")
    small = struct.pack("<II", 80, 48)
    content = path.read_bytes()
    assert content.count(small) == 2
    path.write_bytes(content.replace(small, struct.pack("<II", 16000, 16000)))
    with pytest.raises(AVSInputError, match=r"a\.avi holds no frame .* more than \d+ pixels, make it smaller"):
        Video(path)


LIMITED = """
import resource, sys
from transavs import AVSInputError
from transavs.media.audio_file import load_audio
from transavs.media.images import read_frame, read_mask
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
bomb = "bomb.png"
calls = ((read_frame, bomb, "RGB"), (read_mask, bomb, "binary"), (load_audio, "long.wav"), (load_audio, "wide.wav"))
for read, *arguments in calls:
    try:
        read(*arguments)
        sys.exit(f"{arguments[0]} was read")
    except AVSInputError as error:
        print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used)
"""


def test_nothing_is_decoded_before_the_header_has_been_looked_at(tmp_path: Path):
    """By the memory that a process of its own takes: each of these files would take hundreds of megabytes."""
    (tmp_path / "bomb.png").write_bytes(png_header(9000, 9000))
    (tmp_path / "long.wav").write_bytes(wav_header(1, 1, 20_000_000))
    (tmp_path / "wide.wav").write_bytes(wav_header(500, 16000, 20_000_000))
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:PIL", "-c", LIMITED],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    *told, kilobytes = done.stdout.splitlines()
    assert len(told) == 4
    assert int(kilobytes) < 50_000
    assert "Warning" not in done.stderr.replace("FutureWarning", "")


def test_large_good_images_are_read(tmp_path: Path):
    """The limits leave room for what people have."""
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4320, 7680), np.uint8), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert read_frame(str(tmp_path / "a.png"), "RGB").shape == (4320, 7680, 3)
    assert read_mask(str(tmp_path / "a.png"), "binary").sum() == 0


def test_a_long_sound_is_read(tmp_path: Path):
    path = tmp_path / "a.wav"
    path.write_bytes(wav_header(1, 16000, 16000 * 600))
    assert load_audio(path)[0].shape == (1, 16000 * 600)
