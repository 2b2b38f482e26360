"""Figure of the queries of TransAVS on one frame: their masks, their classes, and where they look.

Shape legend: N queries, K classes, S x S the network input, h x w a level of the image features, H x W the frame.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from torch import Tensor, nn

from transavs.media.images import read_frame
from transavs.modeling.transavs.meta_arch import TransAVS
from transavs.modeling.transavs.query_decoder import AudioQueryDecoder
from transavs.utils.errors import AVSInputError
from transavs.visualization.clip_figure import Clip, heard_in
from transavs.visualization.clips import (
    CELL,
    HEAT_COLORS,
    heat,
    new_figure,
    overlay,
    save_figure,
    show_sound,
    show_truth,
)

COLUMN = 1.6 * CELL  # inches
FRAME_ROWS = ("sound", "frame", "truth", "predicted")


@dataclass(frozen=True)
class FrameQueries:
    """The queries of one frame, on the CPU.

    Attributes:
        probabilities: of each class, (N, K).
        masks: float (N, S, S) in [0, 1].
        attention: of each decoder layer over the level that it looks at, mean over the heads, (N, h, w) summing to 1.
    """

    probabilities: Tensor
    masks: Tensor
    attention: list[Tensor]

    def winners(self) -> Tensor:
        """Index of the query whose vote decides each pixel, int64 (S, S).

        The votes are those of :mod:`transavs.modeling.transavs.semantic_inference`, before its upsampling.
        """
        return (self.probabilities.amax(1)[:, None, None] * self.masks).argmax(0)

    def strongest(self, number: int) -> list[int]:
        """Indices of the queries that decide most of the frame; of those alike, the ones that rather sound."""
        decided = torch.bincount(self.winners().flatten(), minlength=len(self.masks)).tolist()
        sounding = (1 - self.probabilities[:, 0]).tolist()
        order = sorted(range(len(decided)), key=lambda query: (decided[query], sounding[query]), reverse=True)
        return order[:number]


@contextmanager
def recorded_attention(decoder: AudioQueryDecoder) -> Iterator[list[Tensor]]:
    """Record the attention of each layer of ``decoder`` (F, N, h, w), mean over heads, into the list.

    The attention is computed a second time for it: the layers ask for no weights, which is faster.
    """
    sizes: dict[int, tuple[int, ...]] = {}
    found: list[Tensor] = []

    def see_levels(module: nn.Module, args: tuple[Any, ...]) -> None:
        sizes.update({level[0, 0].numel(): tuple(level.shape[-2:]) for level in args[1]})

    def see_attention(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        _, weights = module.forward(*args, **kwargs | {"need_weights": True})  # not a call, which would come here again
        found.append(weights.unflatten(-1, sizes[weights.shape[-1]]))

    handles = [decoder.register_forward_pre_hook(see_levels)]
    handles += [
        module.register_forward_hook(see_attention, with_kwargs=True)
        for module in decoder.decoder.modules()
        if isinstance(module, nn.MultiheadAttention)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def frame_queries(model: nn.Module, clip: Clip, frame: int) -> FrameQueries:
    """Run TransAVS on one frame of a clip.

    Args:
        model: in evaluation mode.
        clip: as :class:`transavs.data.dataset_mapper.AVSDatasetMapper` makes it.
        frame: its index, from 0.

    Raises:
        AVSInputError: the model has no queries, or the clip no such frame.
    """
    if not isinstance(model, TransAVS) or not isinstance(model.query_decoder, AudioQueryDecoder):
        raise AVSInputError(f"a {type(model).__name__} has no audio queries to draw: name a checkpoint of TransAVS")
    if not 0 <= frame < len(clip["images"]):
        raise AVSInputError(f"clip {clip['video_id']} has no frame {frame + 1}: choose from 1 to {len(clip['images'])}")
    image = model.normalize(clip["images"][[frame]])
    audio = model.audio_embeddings([clip])[0][None]
    with recorded_attention(model.query_decoder) as attention:
        outputs = model.predict(image, audio, torch.tensor([frame], device=model.device))
    masks = model.resize(outputs["pred_masks"].float(), image.shape[-2:]).sigmoid()
    probabilities = outputs["pred_logits"].float().softmax(-1)
    return FrameQueries(probabilities[0].cpu(), masks[0].cpu(), [weights[0].float().cpu() for weights in attention])


def draw_queries(
    model: nn.Module, clip: Clip, frame: int, number: int, class_names: Sequence[str], path: str | Path
) -> None:
    """Write a figure: the frame's sound, image, ground truth and prediction; beside them a column per strong query.

    A query's column has its mask and its attention in the last layers, one for each level of the image features.

    Args:
        model, clip, frame: see :func:`frame_queries`.
        number: of queries to draw.
        class_names: background first.
        path: see :func:`transavs.visualization.clips.save_figure`.
    """
    if number < 1:
        raise AVSInputError(f"{number} queries make no figure: ask for one or more")
    queries = frame_queries(model, clip, frame)
    with torch.inference_mode():
        predicted = model([clip])[0]["sem_seg"][frame].argmax(0).cpu().numpy()
    image = read_frame(clip["file_names"][frame], "RGB")
    shown = queries.strongest(number)
    levels = len({weights.shape for weights in queries.attention})
    rows = max(len(FRAME_ROWS), 1 + levels)
    shape = image.shape[0] / image.shape[1]
    figure = new_figure(COLUMN * (len(shown) + 1.3) + 1, COLUMN * rows * shape + 0.9)
    figure.suptitle(f"{clip['video_id']}, second {frame + 1}")
    axes = figure.subplots(rows, len(shown) + 1, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    _draw_frame(axes[:, 0], clip, frame, image, predicted)
    for column, query in zip(axes.T[1:], shown, strict=True):
        _draw_query(column, queries, query, levels, image, class_names)
    for axis in axes[:, 2:].flat:  # as in the column before
        axis.set_ylabel("")
    colors = ScalarMappable(cmap=HEAT_COLORS)
    figure.colorbar(colors, ax=axes, shrink=0.4, aspect=30, label="mask score;  attention over its maximum")
    save_figure(figure, path)


def _draw_frame(axes: np.ndarray, clip: Clip, frame: int, image: np.ndarray, predicted: np.ndarray) -> None:
    heard, seen, truth, prediction, *beyond = axes
    show_sound(heard, heard_in(clip)[frame])
    heard.set_box_aspect(image.shape[0] / image.shape[1])
    seen.imshow(image)
    labeled = clip["labeled_frames"].tolist()
    show_truth(truth, image, clip["masks"][labeled.index(frame)].numpy() if frame in labeled else None)
    prediction.imshow(overlay(image, predicted))
    for axis, name in zip(axes, FRAME_ROWS, strict=False):
        axis.set_ylabel(name, fontsize=9)
    for axis in beyond:
        axis.axis("off")


def _draw_query(
    axes: np.ndarray,
    queries: FrameQueries,
    query: int,
    levels: int,
    image: np.ndarray,
    class_names: Sequence[str],
) -> None:
    """Mask and, for the last ``levels`` layers, attention of one query from top to bottom."""
    confidence, number = queries.probabilities[query].max(0)
    decided = queries.winners() == query
    caption = f"query {query}: {class_names[int(number)]} {confidence:.2f}"
    axes[0].set_title(f"{caption}\ndecides {100 * decided.float().mean():.1f} % of the frame", fontsize=9)
    axes[0].imshow(heat(image, queries.masks[query].numpy(), decided.numpy()))
    names = ["mask\noutlined: what it decides"]
    for layer in range(len(queries.attention) - levels, len(queries.attention)):
        weights = queries.attention[layer][query]
        names.append(f"attention, layer {layer + 1}\n{weights.shape[0]} x {weights.shape[1]}")
        axes[len(names) - 1].imshow(heat(image, (weights / weights.max()).numpy()))
    for axis, name in zip(axes, names, strict=False):
        axis.set_ylabel(name, fontsize=9)
    for axis in axes[len(names) :]:
        axis.axis("off")
