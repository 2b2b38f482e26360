#!/usr/bin/env python
"""Mark what sounds in videos: tools/demo.py --input video.mp4 --output marked.mp4.

Any file that FFmpeg reads, or a folder of images with a sound file. Several inputs, or a folder of videos, make
--output, --masks and --json folders, in which each video has a result of its own name; those that are there already
are left out. --input camera, a device such as /dev/video1 or an address such as rtsp://... is marked live, until it
ends or Ctrl-C; --output can be watched meanwhile.
"""

import argparse
import os
import sys
from pathlib import Path

# torch's threads wait asleep, and leave their core to decoder and encoder; it is read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from detectron2.utils.logger import setup_logger

from transavs.demo.arguments import add_model_arguments, load_predictor
from transavs.demo.process_videos import (
    Targets,
    check_targets,
    find_videos,
    result_name,
    segment_video,
    segment_videos,
)
from transavs.media.audio_stream import MUTE, NOISE
from transavs.utils.command_line import USAGE_ERROR, check_outputs, run_tool
from transavs.utils.errors import AVSInputError

PATIENCE = 5.0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--input", nargs="+", required=True, help="videos, folders of videos or of images, camera, or addresses"
    )
    parser.add_argument("--output", type=Path, help="video to write; by default NAME_sounding.mp4, beside --masks none")
    parser.add_argument("--masks", type=Path, help="folder for the masks as PNG, named by frame")
    parser.add_argument("--json", type=Path, help="file for the masks, a COCO data set")
    parser.add_argument("--fps", type=float, default=5, help="masks per second, 0 = every frame; 5 by default")
    parser.add_argument("--audio", metavar="FILE|mute|noise", help="to hear and play in place of the video's own sound")
    parser.add_argument("--start", type=float, default=0.0, help="second of the video to begin at")
    parser.add_argument("--end", type=float, help="second of the video to end before")
    parser.add_argument("--input-fps", type=float, help="images per second of a folder; by default as its sound lasts")
    parser.add_argument(
        "--follow",
        type=float,
        nargs="?",
        const=PATIENCE,
        metavar="SECONDS",
        help=f"the video is still being written, until it has not grown for so long, {PATIENCE:.0f} if not given",
    )
    add_model_arguments(parser)
    parser.add_argument("--threshold", type=float, help="score above which a pixel sounds; 0.5 by default")
    parser.add_argument(
        "--smoothing", type=float, default=0, help="seconds over which scores are averaged; off by default"
    )
    parser.add_argument("--overlap", type=int, help="seconds that neighboring windows share, see AVSPredictor")
    return parser.parse_args()


def targets_by_name(args: argparse.Namespace, videos: list[str]) -> list[Targets]:
    """Results of each video, by its name in the folders that are given.

    Raises:
        AVSInputError: videos would be written into a folder of inputs, and be inputs of the next call.
    """
    check_outputs([], filter(os.path.isdir, args.input), folders=[args.output])
    return [
        Targets(
            overlay=args.output and args.output / f"{name}.mp4",
            masks=args.masks and args.masks / name,
            coco=args.json and args.json / f"{name}.json",
        )
        for name in map(result_name, videos)
    ]


def main() -> None:
    args = parse_arguments()
    setup_logger(name="transavs")
    if args.threshold is not None and not 0 <= args.threshold <= 1:
        raise AVSInputError(f"--threshold is {args.threshold}: give a number from 0 to 1")
    videos = find_videos(args.input)
    is_single = videos == args.input[:1]  # and no folder of one video
    if args.output is None and args.masks is None and args.json is None:
        args.output = Path(f"{result_name(videos[0])}_sounding.mp4" if is_single else "sounding")
    targets = [Targets(args.output, args.masks, args.json)] if is_single else targets_by_name(args, videos)
    sound = None if args.audio in (MUTE, NOISE) else args.audio
    check_targets(targets, [*videos, sound, args.weights, args.config_file])
    options = {
        "rate": args.fps,
        "threshold": args.threshold,
        "audio": args.audio,
        "start": args.start,
        "end": args.end,
        "frame_rate": args.input_fps,
        "patience": args.follow,
    }
    predictor = load_predictor(args, overlap=args.overlap, smoothing=args.smoothing)
    if is_single:
        sys.stdout.write(f"{videos[0]}: {segment_video(predictor, videos[0], targets[0], **options)}\n")
        return
    failed = segment_videos(predictor, videos, targets, **options)
    sys.stdout.write(f"{len(videos) - failed} of {len(videos)} videos done\n")
    if failed:
        sys.exit(USAGE_ERROR)


if __name__ == "__main__":
    run_tool(main)
