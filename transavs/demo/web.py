"""A page on which visitors have their videos segmented and hear, mute or exchange the sound."""

import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from html import escape
from itertools import cycle
from pathlib import Path
from types import FrameType
from typing import Any

import gradio as gr

from transavs.data.synthetic.video import write_synthetic_video
from transavs.demo.session import (
    DRAWN_SIDE,
    EARLIER,
    MEGABYTE,
    OWN,
    DemoSession,
    Limits,
    Progress,
    Visit,
    heard_with,
)
from transavs.demo.web_layout import CSS, FONT, answer, earlier, earlier_players, question, shown, videos
from transavs.inference.predictor import AVSPredictor
from transavs.utils.errors import AVSInputError

TITLE = "What makes the sound?"
EXAMPLES = 8
EXAMPLE: dict[str, Any] = {"seconds": 10, "frame_rate": 15, "size": (320, 320)}
KEPT_SECONDS = 3600  # how long an uploaded or a drawn file is kept
USER = "visitor"


class CanceledError(Exception):
    """A visitor wants no result any more."""


@contextmanager
def shown_to_visitor() -> Iterator[None]:
    """Turn an AVSInputError within the context into a message on the page."""
    try:
        yield
    except AVSInputError as error:
        raise gr.Error(escape(error.summary), print_exception=False) from error


class Page:
    """The page of one model; visitors take turns."""

    def __init__(self, predictor: AVSPredictor, limits: Limits, folder: Path):
        """
        Args:
            predictor: the model.
            limits: what is taken from visitors.
            folder: for what is made for them.
        """
        self._predictor, self._limits, self._folder = predictor, limits, folder
        self._examples = cycle(range(1, EXAMPLES + 1))
        self._canceled: dict[str | None, threading.Event] = {}  # of the visitors' running jobs

    @contextmanager
    def _job(self, visitor: gr.Request, progress: Progress) -> Iterator[Progress]:
        """Let a job tell of its progress; the context ends there, without an error, where the visitor cancels."""
        key, canceled = visitor.session_hash, threading.Event()
        self._canceled[key] = canceled

        def tell(share: float, what: str) -> None:
            if canceled.is_set():
                raise CanceledError
            progress(share, what)

        try:
            with suppress(CanceledError), shown_to_visitor():
                yield tell
        finally:
            if self._canceled.get(key) is canceled:
                del self._canceled[key]

    def cancel(self, visitor: gr.Request) -> None:
        """End the visitor's job where it tells of its progress next; what it has written is removed."""
        if (canceled := self._canceled.get(visitor.session_hash)) is not None:
            canceled.set()

    def about(self) -> str:
        """Describe the model in Markdown."""
        model = self._predictor.format
        names = model.class_names[1:]
        finds = f"tells {len(names)} classes of sounding things apart" if len(names) > 1 else "marks whatever sounds"
        return (
            f"Give a video with sound: the model {finds}, pixel by pixel. It looks at {model.num_frames} seconds at a "
            f"time, at {model.image_size} by {model.image_size} pixels, and listens to the second around each frame. "
            "Mute the video or give it another sound, and see whether the masks follow."
        )

    def example(self) -> str:
        """One of a few generated videos, another one each time."""
        number = next(self._examples)
        path = self._folder / f"generated_{number}.mp4"
        if not path.exists():
            write_synthetic_video(path, seed=number, **EXAMPLE)
        return str(path)

    def segment(
        self,
        path: str | None,
        choice: str,
        another: str | None,
        rate: float,
        threshold: float,
        last: str | None,
        visit: Visit,
        visitor: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (how gradio finds out that it is wanted)
    ) -> tuple[Any, ...]:
        """Predict and draw; the run takes the place of the visitor's last one, whose video stays in sight."""
        with self._job(visitor, progress) as tell:
            if path is None:
                raise AVSInputError("there is no video yet: drop one, or try a generated one")
            video = self._limits.open(path)
            run = DemoSession(video, heard_with(video, choice, another, self._limits), self._folder)
            try:
                run.predict(self._predictor, rate, self._limits, tell)
                drawing = run.draw(threshold, tell)
                tell(1.0, "done")
            except BaseException:
                run.remove()
                raise
            visit.keep(run, choice, last)
            if run.is_silent and choice == OWN:
                gr.Warning("The video is silent: what is marked in it is a guess from the picture.")
            return *earlier(visit), *shown(run, drawing, choice), visit
        return (gr.skip(),) * (EARLIER + 6)

    def redraw(
        self,
        threshold: float,
        visit: Visit,
        visitor: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, ...]:
        """Draw the visitor's last run with another threshold; the network does not run."""
        with self._job(visitor, progress) as tell:
            if visit.run is not None:
                return shown(visit.run, visit.run.draw(threshold, tell), visit.choice)
        return (gr.skip(),) * 5

    def build(self) -> gr.Blocks:
        """The page, not served yet."""
        work: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model", "api_visibility": "private"}
        with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(KEPT_SECONDS // 6, KEPT_SECONDS)) as page:
            visit = gr.State(Visit(), time_to_live=KEPT_SECONDS, delete_callback=Visit.remove)
            gr.Markdown(f"# {TITLE}\n{self.about()}")
            with gr.Row(equal_height=True):
                given, result = videos()
            with gr.Row():
                before = earlier_players()
            with gr.Row():
                with gr.Column():
                    generate, *asked, start, cancel = question()
                with gr.Column():
                    threshold, *answered = answer()
            gr.Markdown(
                f"Videos of up to {self._limits.seconds:.0f} s and {self._limits.megabytes} MB; the result is "
                f"at most {DRAWN_SIDE} pixels wide or high. Files stay on the machine that serves this page and are "
                f"removed after about {KEPT_SECONDS // 60} minutes."
            )
            generate.click(self.example, None, given, show_progress_on=given, **work)
            started = start.click(
                self.segment,
                [given, *asked, threshold, result, visit],
                [*before, result, *answered, visit],
                show_progress_on=result,
                **work,
            )
            redrawn = threshold.release(
                self.redraw,
                [threshold, visit],
                [result, *answered],
                show_progress_on=result,
                trigger_mode="always_last",
                **work,
            )
            # The job is told first: once gradio has dropped it, nobody takes what it returns.
            told = cancel.click(self.cancel, None, None, queue=False, api_visibility="private")
            told.then(None, None, None, cancels=[started, redrawn])
            page.unload(self.cancel)
        return page


def serve(predictor: AVSPredictor, *, host: str, port: int, limits: Limits, password: str | None = None) -> None:
    """Serve the page until the process is stopped; everything that is made for visitors is removed then.

    Args:
        predictor: the model.
        host: address to listen on; 127.0.0.1 is reached from this machine alone.
        port: to listen on.
        limits: what is taken from visitors.
        password: that is asked for, of the user USER; None for no question.

    Raises:
        AVSInputError: the address cannot be listened on.
    """
    signal.signal(signal.SIGTERM, _leave)
    with tempfile.TemporaryDirectory(prefix="transavs_web_") as folder:
        # What gradio copies to its cache it also expires; it does not copy what lies there already.
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder, "cache"))
        made = Path(folder, "made")
        made.mkdir()
        page = Page(predictor, limits, made).build()
        try:
            page.launch(
                server_name=host,
                server_port=port,
                share=False,
                auth=(USER, password) if password else None,
                ssr_mode=False,
                max_file_size=limits.megabytes * MEGABYTE,
                quiet=True,
                prevent_thread_lock=True,
                theme=gr.themes.Default(primary_hue="orange", font=(FONT, "sans-serif")),
                css=CSS,
                footer_links=[],
                run_history=False,
            )
        except OSError as error:
            raise AVSInputError(
                f"{host}:{port} cannot be listened on: it is taken, or not of this machine; choose --port or --host"
            ) from error
        logging.getLogger(__name__).info("serving http://%s:%d until Ctrl-C", host, port)
        page.block_thread()


def _leave(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # some send it twice, and the folder is yet to be removed
    sys.exit(0)
