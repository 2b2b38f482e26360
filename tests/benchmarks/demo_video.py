"""tools/demo.py on videos of several lengths: speed, peak memory, and whether the sound stays with the picture.

python tests/benchmarks/demo_video.py --weights output/quickstart/model_final.pth --seconds 15 60 --fps 1 5 0
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tabulate import tabulate

from transavs.data.synthetic.video import write_synthetic_video
from transavs.media.video_reader import Video

DEMO = Path(__file__).parents[2] / "tools/demo.py"
LAG_RATE, LONGEST_LAG = 16000, 0.2  # Hz, seconds


def lag(one: Path, other: Path) -> float:
    """By how many seconds the sound of ``other`` comes later than that of ``one``, where they agree best."""
    heard, copied = (np.concatenate(list(Video(path).sound(LAG_RATE)), 1).mean(0) for path in (one, other))
    size = 2 ** int(np.ceil(np.log2(len(heard) + len(copied))))
    products = np.fft.irfft(np.fft.rfft(copied, size) * np.fft.rfft(heard, size).conj(), size)
    reach = round(LONGEST_LAG * LAG_RATE)
    return (np.argmax(np.concatenate([products[-reach:], products[:reach]])) - reach) / LAG_RATE


def measure(video: Path, folder: Path, weights: Path, fps: float) -> dict[str, float]:
    marked = folder / f"marked_{fps}.mp4"
    command = [sys.executable, DEMO, "--input", video, "--output", marked, "--weights", weights, "--fps", fps]
    command += ["--masks", folder / "masks", "--json", folder / "found.json"]
    started = time.perf_counter()
    process = subprocess.Popen([str(part) for part in command])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(status)
    elapsed = time.perf_counter() - started
    about = Video(video)
    times = [[frame.time for frame in Video(path).frames()] for path in (video, marked)]
    return {
        "video s": about.duration,
        "masks per s": fps or about.frame_rate,
        "wall s, all in": elapsed,
        "x real time": about.duration / elapsed,
        "peak MiB": usage.ru_maxrss / 1024,
        "sound later by ms": 1000 * lag(video, marked),
        "frames later by ms": 1000 * float(np.abs(np.subtract(*times)).max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--seconds", nargs="+", type=float, default=[15, 60])
    parser.add_argument("--fps", nargs="+", type=float, default=[1, 5, 0])
    parser.add_argument("--size", nargs=2, type=int, default=(720, 1280))
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seconds in args.seconds:
            video = folder / f"{seconds:g}.mp4"
            write_synthetic_video(video, seconds=seconds, frame_rate=25, size=tuple(args.size))
            rows += [measure(video, folder, args.weights, fps) for fps in args.fps]
    sys.stdout.write(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".1f") + "\n")


if __name__ == "__main__":
    main()
