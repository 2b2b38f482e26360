"""Parts of the page: players, what is asked of visitors, and what they are told."""

from typing import Any

import gradio as gr

from transavs.demo.session import ANOTHER, EARLIER, OWN, SOUNDS, DemoSession, Drawing, Visit
from transavs.demo.summary import summary_of

VIDEO_HEIGHT, EARLIER_HEIGHT = 360, 240
RATES = (("1", 1), ("2", 2), ("5", 5), ("10", 10), ("every frame", 0))
CAMERA = {"width": {"ideal": 640}, "height": {"ideal": 480}}  # gradio would ask for 1920 x 1440
FONT = gr.themes.LocalFont("Source Sans Pro", weights=(400, 700))  # comes with gradio
CSS = """
.gradio-container { max-width: 1180px !important; margin: 0 auto !important; }
footer { display: none !important; }
/* The buttons for upload and camera stay in sight below a video, which gradio lets take the whole height. */
#given .video-container { height: calc(100% - 21px); }
"""


def player(label: str, height: int, **options: Any) -> gr.Video:
    """A result, which cannot be exchanged by the visitor."""
    return gr.Video(label=label, interactive=False, height=height, min_width=240, buttons=[], **options)


def videos() -> tuple[gr.Video, gr.Video]:
    """Lay out the visitor's video, given or recorded, and the result."""
    given = gr.Video(
        label="Video",
        sources=["upload", "webcam"],
        webcam_options=gr.WebcamOptions(constraints={"video": CAMERA}),
        height=VIDEO_HEIGHT,
        min_width=320,
        elem_id="given",
    )
    return given, player("What sounds", VIDEO_HEIGHT, elem_id="result")


def earlier_players() -> list[gr.Video]:
    """Lay out players for the results before the last one, out of sight until there are some."""
    return [
        player("Before", EARLIER_HEIGHT, elem_id=f"before-{number}", visible=False) for number in range(1, EARLIER + 1)
    ]


def question() -> tuple[Any, ...]:
    """Lay out the question: an example, the sound, another sound's file, the rate, buttons to start and to cancel."""
    generate = gr.Button("Try a generated video", size="md", elem_id="generate")
    choice = gr.Radio(list(SOUNDS), value=OWN, label="The model hears", elem_id="sound")
    another = gr.File(
        label="Another sound: an audio or a video file",
        file_types=["audio", "video"],
        height=120,
        visible=False,
        elem_id="another",
    )
    choice.change(lambda chosen: gr.update(visible=chosen == ANOTHER), choice, another, api_visibility="private")
    rate = gr.Radio(list(RATES), value=5, label="Masks per second", elem_id="rate")
    with gr.Row():
        start = gr.Button("Find what sounds", variant="primary", scale=3, min_width=160, elem_id="start")
        cancel = gr.Button("Cancel", min_width=80, elem_id="cancel")
    return generate, choice, another, rate, start, cancel


def answer() -> tuple[Any, ...]:
    """Lay out what is told beside the result: the threshold, three downloads and the summary."""
    threshold = gr.Slider(
        0.05,
        0.95,
        0.5,
        step=0.05,
        label="Threshold: a pixel is marked where its score is above",
        info="Draws the result anew, without running the network again.",
        elem_id="threshold",
    )
    with gr.Row():
        video_file = gr.DownloadButton("Video (MP4)", interactive=False, size="md", elem_id="video-file")
        mask_file = gr.DownloadButton("Masks (COCO JSON)", interactive=False, size="md", elem_id="mask-file")
        archive = gr.DownloadButton("Masks (PNG)", interactive=False, size="md", elem_id="archive")
    summary = gr.HTML(elem_id="summary")
    return threshold, video_file, mask_file, archive, summary


def earlier(visit: Visit) -> list[Any]:
    """The results before the last one, and nothing in the players that are left."""
    kept = [gr.update(value=video, label=f"Before: heard {heard}", visible=True) for video, heard in visit.earlier]
    return kept + [gr.update(value=None, visible=False)] * (EARLIER - len(kept))


def shown(run: DemoSession, drawing: Drawing, choice: str) -> tuple[Any, ...]:
    """The result, the three downloads and the summary."""
    return (
        gr.update(value=str(drawing.overlay), label=f"What sounds: heard {choice}"),
        gr.update(value=str(drawing.overlay), interactive=True),
        gr.update(value=str(drawing.coco), interactive=True),
        gr.update(value=str(drawing.archive), interactive=True),
        summary_of(run, drawing),
    )
