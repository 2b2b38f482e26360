#!/usr/bin/env python
"""Draw docs/images/architecture.png, with the shapes and classes of a real forward pass: docs/draw_architecture.py."""

from pathlib import Path
from typing import Any

import torch
from detectron2.modeling import build_model
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch
from torch import Tensor, nn

from transavs.config.load import load_config
from transavs.modeling.transavs.semantic_inference import semantic_inference

REPOSITORY = Path(__file__).parents[1]
CONFIG = "configs/s4_r50.yaml"
OVERRIDES = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.AUDIO_BACKBONE.WEIGHTS", ""]
INK = "#33414e"
VISUAL, AUDIO, FUSION, OUTPUT = (
    {"face": "#e1ebf5", "edge": "#54789f"},
    {"face": "#f8ead8", "edge": "#b58344"},
    {"face": "#e0eee2", "edge": "#55875f"},
    {"face": "#ebe5f4", "edge": "#77619c"},
)
WIDTH, HEIGHT = 188, 72
TIMES = " \N{MULTIPLICATION SIGN} "


def trace(config_file: Path) -> tuple[nn.Module, dict[str, str]]:
    """Run one random clip through the model; returns the model and the shapes seen on the way, as text."""
    cfg = load_config(config_file, OVERRIDES)
    model = build_model(cfg).eval()
    seen: dict[str, Any] = {}
    decoder = model.query_decoder

    def keep(name: str, module: nn.Module) -> None:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            seen.update({f"{name} in": inputs, f"{name} out": output})

        module.register_forward_hook(hook)

    keep("backbone", model.backbone)
    keep("audio", model.audio_backbone)
    keep("queries", decoder)
    keep("encoder", decoder.encoder[0])
    keep("decoder", decoder.decoder[-1])
    frames, size = cfg.INPUT.NUM_FRAMES, cfg.INPUT.IMAGE_SIZE
    images, log_mel = torch.rand(1, frames, 3, size, size) * 255, torch.randn(1, frames, 1, 96, 64)
    with torch.no_grad():
        probabilities = model.forward_tensors(images, log_mel)[0]
    mask_features, pyramid = seen["queries in"][:2]
    found: dict[str, Tensor] = {"images": seen["backbone in"][0], "log_mel": seen["audio in"][0]}
    found |= seen["backbone out"] | {f"f{level}": feature for level, feature in enumerate([*pyramid, mask_features], 1)}
    found |= {"sound": seen["audio out"], "mixed": seen["encoder in"][0], "fused": seen["decoder out"]}
    found |= {"encoded": seen["queries out"]["audio_queries"]}
    found |= {"masks": seen["queries out"]["pred_masks"], "classes": seen["queries out"]["pred_logits"]}
    found |= {"probabilities": probabilities}
    return model, {name: TIMES.join(map(str, tensor.shape)) for name, tensor in found.items()}


class Canvas:
    """Boxes and arrows on one pair of axes."""

    def __init__(self, axes: Axes):
        self.axes = axes
        axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
        axes.axis("off")

    def box(self, x: tuple[float, float], y: tuple[float, float], color: dict[str, str], *lines: str) -> None:
        """A title in bold, a class name in the color of the edge, and small print."""
        style: dict[str, Any] = {"facecolor": color["face"], "edgecolor": color["edge"], "linewidth": 1.4}
        shape = "round,pad=0,rounding_size=1.2"
        self.axes.add_patch(FancyBboxPatch((x[0], y[0]), x[1] - x[0], y[1] - y[0], boxstyle=shape, **style))
        fonts: list[dict[str, Any]] = [
            {"fontsize": 11, "fontweight": "bold", "color": INK},
            {"fontsize": 8.6, "family": "monospace", "color": color["edge"]},
            {"fontsize": 9.5, "color": INK},
        ]
        shown = [(part, fonts[min(i, 2)]) for i, line in enumerate(lines) if line for part in line.split("\n")]
        for number, (line, font) in enumerate(shown):
            height = sum(y) / 2 + 3.2 * ((len(shown) - 1) / 2 - number)
            self.axes.text(sum(x) / 2, height, line, ha="center", va="center", **font)

    def arrow(
        self, *points: tuple[float, float], label: str = "", symbol: str = "", at: tuple[float, float] | None = None
    ) -> None:
        """Along the points, with its label above the first stretch, or at a place of its own; the symbol goes below."""
        self.axes.plot(*zip(*points, strict=True), color=INK, linewidth=1.2, solid_joinstyle="round")
        head = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
        self.axes.annotate("", points[-1], points[-2], arrowprops=head)
        x, y = at or ((points[0][0] + points[1][0]) / 2, points[0][1] + 1.6)
        self.write(x, y, label)
        self.write(x, y - 3.6, symbol, 11)

    def write(self, x: float, y: float, text: str, size: float = 9.5) -> None:
        self.axes.text(x, y, text, ha="center", va="center", fontsize=size, color=INK)


def draw(canvas: Canvas, model: Any, shapes: dict[str, str]) -> None:
    """The image from left to right above, the sound below, and what both lead to on the right."""
    decoder, layer = model.query_decoder, type(model.query_decoder.decoder[0]).__name__
    names = {part: type(getattr(model, part)).__name__ for part, _ in model.named_children()}

    canvas.box((1, 15), (44, 66), VISUAL, "Frames", "", "one a second")
    canvas.arrow((15, 55), (30, 55), label=shapes["images"])
    canvas.box((30, 45), (44, 66), VISUAL, "Visual\nbackbone", names["backbone"])
    canvas.box((62, 78), (44, 66), VISUAL, "Pixel decoder", names["pixel_decoder"])
    pyramid = FancyBboxPatch((108, 43.2), 20, 16.2, boxstyle="round,pad=0,rounding_size=1.2", facecolor="none")
    pyramid.set(edgecolor=VISUAL["edge"], linestyle="--", linewidth=1)
    canvas.axes.add_patch(pyramid)
    rows = zip(("res2", "res3", "res4", "res5"), (4, 3, 2, 1), (63, 57, 51.5, 46), strict=True)
    for feature, level, y in rows:
        canvas.arrow((45, y), (62, y), label=shapes[feature])
        half = 2.5 + 1.5 * level
        canvas.box((118 - half, 118 + half), (y - 1.9, y + 1.9), VISUAL, f"$f_{level}$")
        canvas.arrow((78, y), (118 - half, y), label=shapes[f"f{level}"], at=(92, y + 1.6))

    canvas.box((1, 15), (8, 25), AUDIO, "Sound", "", "log-mel, one", "second a frame")
    canvas.arrow((15, 16.5), (30, 16.5), label=shapes["log_mel"])
    canvas.box((30, 45), (8, 25), AUDIO, "Audio\nbackbone", names["audio_backbone"])
    canvas.arrow((45, 16.5), (54, 16.5), label=shapes["sound"], symbol="$F_a$")
    mixer = type(decoder.query_mixer).__name__
    canvas.box((54, 69), (8, 25), FUSION, "Audio queries", mixer, "$W_1$, eq. (1)")
    canvas.arrow((69, 16.5), (81, 16.5), label=shapes["mixed"], symbol="$A_q^0$")
    canvas.box(
        (81, 98), (8, 25), FUSION, "Encoder", f"{len(decoder.encoder)}{TIMES}{layer}", "among queries", "eqs. (2), (3)"
    )
    canvas.arrow((98, 16.5), (110, 16.5), label=shapes["encoded"], symbol="$A_q$")
    lines = ("Decoder", f"{len(decoder.decoder)}{TIMES}{layer}", "queries to image", "eqs. (4) to (6)")
    canvas.box((110, 127), (8, 25), FUSION, *lines)
    canvas.arrow((118, 43.2), (118, 25))
    canvas.write(107.5, 34, "$f_1, f_2, f_3$ in turn")

    canvas.arrow((127, 16.5), (134, 16.5), (134, 57), (141, 57))
    canvas.arrow((134, 38), (141, 38), label=shapes["fused"], symbol="$F_{av}$", at=(141.5, 26))
    canvas.arrow((126.5, 63), (141, 63))
    canvas.box((141, 155), (52, 68), OUTPUT, "Masks", type(decoder.mask_projection).__name__, "$W_2$, eq. (7)")
    canvas.box((141, 155), (31, 45), OUTPUT, "Classes", type(decoder.classifier).__name__, "$g$, eq. (8)")
    canvas.arrow((155, 60), (170, 60), label=shapes["masks"], symbol="$M$")
    canvas.arrow((155, 38), (170, 38), label=shapes["classes"], symbol="$P$")
    canvas.box((170, 187), (31, 68), OUTPUT, "Inference", semantic_inference.__name__, "eqs. (14), (15)")
    canvas.arrow((178.5, 31), (178.5, 22), label=shapes["probabilities"], at=(169.5, 26.5))
    canvas.box((170, 187), (8, 22), OUTPUT, "Probabilities", "", "of each class", "at each pixel")


def main() -> None:
    figure = plt.figure(figsize=(17, 7), dpi=100)
    canvas = Canvas(figure.add_axes((0, 0, 1, 1)))
    draw(canvas, *trace(REPOSITORY / CONFIG))
    canvas.write(WIDTH / 2, 3, f"A clip of five frames in {CONFIG}; the shapes are those of a forward pass")
    figure.savefig(REPOSITORY / "docs/images/architecture.png")


if __name__ == "__main__":
    main()
