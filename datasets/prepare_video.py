#!/usr/bin/env python
"""Write a video of the synthetic data set's shapes and sounds, with cuts between scenes, to try a model on."""

import argparse
from pathlib import Path

from transavs.data.synthetic.dataset import DIFFICULTIES
from transavs.data.synthetic.video import write_synthetic_video
from transavs.media.video_writer import check_video_path
from transavs.utils.command_line import check_outputs, run_tool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="file to write, .mp4, .mov or .mkv")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--fps", type=float, default=25, help="frames per second")
    parser.add_argument("--size", nargs=2, type=int, default=(360, 480), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--difficulty", choices=sorted(DIFFICULTIES), default="hard", help="see docs/results.md")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    check_outputs([check_video_path(args.output)], makes_parents=True)
    write_synthetic_video(
        args.output,
        seconds=args.seconds,
        frame_rate=args.fps,
        size=tuple(args.size),
        difficulty=args.difficulty,
        seed=args.seed,
    )


if __name__ == "__main__":
    run_tool(main)
