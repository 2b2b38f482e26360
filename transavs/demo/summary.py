"""Summary of a session, in a few sentences and as a chart; HTML."""

from collections import Counter
from html import escape

import numpy as np

from transavs.demo.session import DemoSession, Drawing

CHART_WIDTH, CHART_HEIGHT = 560, 90


def summary_of(run: DemoSession, drawing: Drawing) -> str:
    """Summarize what is marked in a few sentences, and when as a picture; HTML."""
    marked = np.array([frame.marked for frame in drawing.frames])
    found = Counter(name for frame in drawing.frames for name in frame.names)
    sentences = ["The model heard silence."] if run.is_silent else []
    sentences.append(f"Something is marked in {(marked > 0).sum()} of {len(marked)} masks")
    if marked.any():
        sentences[-1] += f", on {100 * marked[marked > 0].mean():.1f} % of the frame"
    if len(run.class_names) > 2 and found:
        sentences[-1] += ": " + ", ".join(f"{escape(name)} in {count}" for name, count in found.most_common())
    sentences[-1] += "."
    sentences.append(f"The network took {run.seconds:.1f} s for {run.video.duration:.1f} s of video.")
    return f"<p>{' '.join(sentences)}</p>" + (timeline(drawing, run.video.duration) if marked.any() else "")


def timeline(drawing: Drawing, seconds: float) -> str:
    """Draw how much of the frame is marked over time, as bars in SVG.

    Args:
        drawing: in which something is marked.
        seconds: length of the video, 0 where it is not known.
    """
    end = max(seconds, drawing.frames[-1].time) or 1.0
    highest = max(frame.marked for frame in drawing.frames)
    step = CHART_WIDTH / len(drawing.frames)
    bars = "".join(
        f'<rect x="{frame.time / end * CHART_WIDTH - step / 2:.1f}" y="{CHART_HEIGHT * (1 - share):.1f}" '
        f'width="{0.8 * step:.1f}" height="{CHART_HEIGHT * share:.1f}"/>'
        for frame, share in ((frame, frame.marked / highest) for frame in drawing.frames)
    )
    label = f"marked share of the frame, at most {100 * highest:.0f} %"
    # The bars take whatever width there is, and the words, which stand outside, keep their size on a phone.
    return (
        f'<svg viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" preserveAspectRatio="none" width="100%" '
        f'height="{CHART_HEIGHT}" role="img" aria-label="{label}"><g fill="var(--primary-500)">{bars}</g>'
        f'<path d="M0 {CHART_HEIGHT}h{CHART_WIDTH}" stroke="currentColor" opacity=".3"/></svg>'
        '<div style="display: flex; justify-content: space-between; font-size: 12px; opacity: .7">'
        f"<span>0 s</span><span>{label}</span><span>{end:.0f} s</span></div>"
    )
