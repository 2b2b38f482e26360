"""Senders of a video in real time: to a TCP or HTTP client, by UDP, as an RTSP server, into a growing file."""

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import av
import numpy as np

from helpers.videos import make_video

AT_ONCE = {"max_interleave_delta": "100000"}  # microseconds to wait for a track that has ended
DARK = 0.2  # of the brightness of the other seconds
SDP = """v=0
o=- 0 0 IN IP4 127.0.0.1
s=test
t=0 0
m=video 0 RTP/AVP 33
a=control:track
"""


def blinking_video(path: Path, seconds: float, **options: Any) -> Path:
    """A video that is bright and beeps in the first, third, ... second, and dark and silent between."""

    def image(number: int) -> np.ndarray:
        pixels = np.full((64, 96, 3), 200, dtype=np.uint8)
        pixels[:32, :48] = (255, 0, 0)
        return pixels if number // 25 % 2 == 0 else (DARK * pixels).astype(np.uint8)

    return make_video(path, seconds=seconds, size=(64, 96), image_of=image, **options)


def send(source: Path, target: Any, form: str = "mpegts") -> None:
    """Copy the packets of a video to a file object or an address at the times at which they are due.

    Ends quietly where nobody listens any more.
    """
    with suppress(OSError, av.FFmpegError), av.open(str(source)) as video, av.open(target, "w", form, AT_ONCE) as sent:
        streams = {stream.index: sent.add_stream_from_template(stream) for stream in video.streams}
        began = time.monotonic()
        for packet in video.demux():
            if packet.dts is None:
                continue
            time.sleep(max(0.0, float(packet.dts * packet.time_base) - (time.monotonic() - began)))
            packet.stream = streams[packet.stream.index]
            sent.mux(packet)


class Connection:
    """A connected socket as PyAV writes to it."""

    def __init__(self, connected: socket.socket):
        self._connected = connected

    def write(self, data: bytes) -> int:
        self._connected.sendall(data)
        return len(data)


@contextmanager
def serving(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Let ``answer`` talk to the first client that connects; gives the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def run() -> None:
            with suppress(OSError):
                connected, _ = server.accept()
                with connected:
                    answer(connected)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield server.getsockname()[1]


@contextmanager
def over_tcp(source: Path) -> Iterator[str]:
    with serving(lambda connected: send(source, Connection(connected))) as port:
        yield f"tcp://127.0.0.1:{port}"


@contextmanager
def over_http(source: Path) -> Iterator[str]:
    def answer(connected: socket.socket) -> None:
        connected.recv(4096)
        connected.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n\r\n")
        send(source, Connection(connected))

    with serving(answer) as port:
        yield f"http://127.0.0.1:{port}/live.ts"


def free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def over_udp(source: Path) -> Iterator[str]:
    address = f"udp://127.0.0.1:{free_udp_port()}"
    threading.Thread(target=send, args=(source, address), daemon=True).start()
    yield address


@contextmanager
def over_rtsp(source: Path) -> Iterator[str]:
    """A server of one stream, an MPEG transport stream in RTP over UDP (RFC 2326, RFC 2250)."""

    def answer(connected: socket.socket) -> None:
        requests, client_port = connected.makefile("rb"), 0
        while line := requests.readline():
            method, head = line.split()[0].decode(), {}
            while line := requests.readline().strip():
                key, _, value = line.decode().partition(":")
                head[key.lower()] = value.strip()
            extra, body = "", ""
            if method == "DESCRIBE":
                body = SDP.replace("\n", "\r\n")
                extra = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
            elif method == "SETUP":
                client_port = int(re.search(r"client_port=(\d+)", head["transport"])[1])
                extra = f"Transport: {head['transport']};server_port=0-0\r\nSession: 1\r\n"
            connected.sendall(f"RTSP/1.0 200 OK\r\nCSeq: {head['cseq']}\r\n{extra}\r\n{body}".encode())
            if method == "PLAY":
                target = f"rtp://127.0.0.1:{client_port}"
                threading.Thread(target=send, args=(source, target, "rtp_mpegts"), daemon=True).start()

    with serving(answer) as port:
        yield f"rtsp://127.0.0.1:{port}/live"


@contextmanager
def into_a_file(source: Path) -> Iterator[str]:
    growing = source.with_name("growing.ts")
    growing.touch()

    def write() -> None:
        with open(growing, "wb", buffering=0) as file:
            send(source, file)

    threading.Thread(target=write, daemon=True).start()
    yield str(growing)
