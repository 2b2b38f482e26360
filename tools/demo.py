#!/usr/bin/env python
"""Mark what sounds in videos: tools/demo.py --input video.mp4 --output marked.mp4.

Any file that FFmpeg reads. Several inputs, or a folder, make --output, --masks and --json folders, in which each
video has a result of its own name; those that are there already are left out.
"""

import argparse
import sys
from pathlib import Path

from detectron2.utils.logger import setup_logger

from transavs.demo.arguments import add_model_arguments, load_predictor
from transavs.demo.process_videos import Targets, find_videos, segment_video, segment_videos
from transavs.utils.command_line import USAGE_ERROR, run_tool
from transavs.utils.errors import AVSInputError


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, nargs="+", required=True, help="videos, or folders of videos")
    parser.add_argument("--output", type=Path, help="video to write; by default NAME_sounding.mp4, beside --masks none")
    parser.add_argument("--masks", type=Path, help="folder for the masks as PNG, named by frame")
    parser.add_argument("--json", type=Path, help="file for the masks, a COCO data set")
    parser.add_argument("--fps", type=float, default=5, help="masks per second, 0 = every frame; 5 by default")
    parser.add_argument("--audio", metavar="FILE|mute|noise", help="to hear and play in place of the video's own sound")
    parser.add_argument("--start", type=float, default=0.0, help="second of the video to begin at")
    parser.add_argument("--end", type=float, help="second of the video to end before")
    add_model_arguments(parser)
    parser.add_argument("--threshold", type=float, help="score above which a pixel sounds; 0.5 by default")
    parser.add_argument(
        "--smoothing", type=float, default=0, help="seconds over which scores are averaged; off by default"
    )
    parser.add_argument("--overlap", type=int, help="seconds that neighboring windows share, see AVSPredictor")
    args = parser.parse_args()
    if args.output is None and args.masks is None and args.json is None:
        single = len(args.input) == 1 and not args.input[0].is_dir()
        args.output = Path(f"{args.input[0].stem}_sounding.mp4" if single else "sounding")
    return args


def main() -> None:
    args = parse_arguments()
    setup_logger(name="transavs")
    if args.threshold is not None and not 0 <= args.threshold <= 1:
        raise AVSInputError(f"--threshold is {args.threshold}: give a number from 0 to 1")
    videos = find_videos(args.input)
    options = {
        "rate": args.fps,
        "threshold": args.threshold,
        "audio": args.audio,
        "start": args.start,
        "end": args.end,
    }
    predictor = load_predictor(args, overlap=args.overlap, smoothing=args.smoothing)
    if videos == args.input[:1]:
        targets = Targets(args.output, args.masks, args.json)
        speed = segment_video(predictor, videos[0], targets, **options)
        sys.stdout.write(f"{videos[0]}: done at {speed:.2f} x real time\n")
        return
    targets_of = [
        Targets(
            overlay=args.output and args.output / f"{path.stem}.mp4",
            masks=args.masks and args.masks / path.stem,
            coco=args.json and args.json / f"{path.stem}.json",
        )
        for path in videos
    ]
    failed = segment_videos(predictor, videos, targets_of, **options)
    sys.stdout.write(f"{len(videos) - failed} of {len(videos)} videos done\n")
    if failed:
        sys.exit(USAGE_ERROR)


if __name__ == "__main__":
    run_tool(main)
