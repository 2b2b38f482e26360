#!/usr/bin/env python
"""Serve a page on which videos are segmented: tools/web_demo.py, then open http://127.0.0.1:7860.

Needs gradio: pip install "transavs[web]". It works without the internet and listens on this machine alone, unless
--host says otherwise; whoever reaches the port can use it, where no password is set.
"""

import argparse
import os

from detectron2.utils.logger import setup_logger

from transavs.demo.arguments import add_model_arguments, load_predictor
from transavs.demo.session import Limits
from transavs.utils.command_line import run_tool
from transavs.utils.errors import AVSInputError, require

PASSWORD = "TRANSAVS_WEB_PASSWORD"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 127.0.0.1, this machine, by default")
    parser.add_argument("--port", type=int, default=7860, help="7860 by default")
    parser.add_argument("--max-seconds", type=float, default=60, help="longest video that is taken; 60 by default")
    parser.add_argument("--max-megabytes", type=int, default=100, help="largest file that is taken; 100 by default")
    parser.add_argument(
        "--max-kept-megabytes", type=int, default=1000, help="most that is kept of a video's masks; 1000 by default"
    )
    parser.add_argument(
        "--password",
        default=os.environ.get(PASSWORD) or None,
        help=f"to be asked for, of the user 'visitor'; other users of this machine can read a command line, so rather "
        f"set the environment variable {PASSWORD}; no password by default",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    setup_logger(name="transavs")
    if not 0 < args.port < 2**16:
        raise AVSInputError(f"--port is {args.port}: give one from 1 to {2**16 - 1}")
    if args.password == "":
        raise AVSInputError("--password is empty: give one, or leave it out")
    limits = Limits(args.max_seconds, args.max_megabytes, args.max_kept_megabytes)
    require("gradio", "web", "the page")
    from transavs.demo.web import serve

    serve(load_predictor(args), host=args.host, port=args.port, limits=limits, password=args.password)


if __name__ == "__main__":
    run_tool(main)
