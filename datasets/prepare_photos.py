#!/usr/bin/env python
"""Write a data set of photographs and recordings in AVSBench's layouts, out of Debian's packages.

Cut-out photographs of animals, instruments and things, each class with a recording, are composed over photographs of
places. Their sources and licenses: datasets/README.md. Which class is made of which files stands in photos.csv.
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

from transavs.data.avsbench import LAYOUTS, SOURCES, SPLITS
from transavs.data.synthetic.album import Entry, load_album, read_table
from transavs.data.synthetic.dataset import write_clips
from transavs.data.synthetic.debian import fetch_shared_files
from transavs.data.synthetic.video import write_synthetic_video
from transavs.media.video_writer import check_video_path
from transavs.utils.command_line import check_outputs, run_tool
from transavs.utils.errors import AVSInputError

DATASETS = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))
TABLE = Path(__file__).with_name("photos.csv")
SOURCE = "photos"
VIDEO_SECONDS, VIDEO_RATE, VIDEO_SIDE = 30, 25, 384


def fetch(entries: list[Entry], folder: Path) -> None:
    """Fetch the files of all packages; without one that has backgrounds alone it goes on, with a warning."""
    for package in dict.fromkeys(entry.package for entry in entries):
        of_it = [entry for entry in entries if entry.package == package]
        names = [name for entry in of_it for name in (entry.file, entry.recording) if name]
        try:
            fetch_shared_files(package, names, folder)
        except AVSInputError as error:
            if any(entry.role != "background" for entry in of_it):
                raise
            sys.stderr.write(f"warning: no backgrounds of {package}: {error.summary}\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--datasets", type=Path, default=DATASETS, help="folder that DETECTRON2_DATASETS is to name")
    parser.add_argument(
        "--stamps", type=Path, help="folder usr/share of the unpacked packages; else they are fetched with apt-get"
    )
    parser.add_argument("--table", type=Path, default=TABLE, help="csv of the classes and their files")
    parser.add_argument("--subsets", nargs="+", choices=sorted(LAYOUTS), default=sorted(LAYOUTS))
    parser.add_argument(
        "--clips", nargs=3, type=int, default=(800, 40, 80), metavar=tuple(SPLITS), help="clips in each split"
    )
    parser.add_argument("--size", type=int, default=224, help="side of the frames in pixels")
    parser.add_argument("--log-mel", action="store_true", help="write AVSBench's log-mel pickles, too, of S4 and MS3")
    parser.add_argument("--video", type=Path, help="write a video of such clips, too: .mp4, .mov or .mkv")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    return parser.parse_args()


def main() -> None:
    args = parse()
    video = args.video and check_video_path(args.video)
    check_outputs([video], [args.table, args.stamps], folders=[args.datasets], makes_parents=True)
    folder = args.stamps or args.datasets / SOURCE / "packages"
    if args.stamps is None:
        fetch(read_table(args.table), folder)
    clips = dict(zip(SPLITS, args.clips, strict=True))
    album = partial(load_album, args.table, folder)
    options = {"source": SOURCE, "seed": args.seed, "log_mel": args.log_mel, "workers": args.workers}
    write_clips(args.datasets, args.subsets, clips, args.size, album, **options)
    written = ", ".join(f"{SOURCES[SOURCE][1][subset]} ({subset})" for subset in args.subsets)
    sys.stdout.write(f"wrote {written} into {args.datasets}\n")
    if args.video:
        write_synthetic_video(
            args.video,
            seconds=VIDEO_SECONDS,
            frame_rate=VIDEO_RATE,
            size=(VIDEO_SIDE, VIDEO_SIDE),
            world=album("test"),
            seed=args.seed,
        )
        sys.stdout.write(f"wrote {args.video}\n")


if __name__ == "__main__":
    run_tool(main)
