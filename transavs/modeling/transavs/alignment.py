"""Alignment of what is seen with what is heard: a contrastive loss between sounding objects and their frames' sound.

Shape legend: F labeled frames, O objects, d channels of the mask features, C audio channels, e channels of the shared
space, h x w the mask features' size.

The masks alone bind sounds to objects slowly: a model first learns what an object is, and marks all of them. This loss
tells the audio backbone and the mask features directly which belong together. It is not in the paper.
"""

from collections.abc import Iterator

import torch
from detectron2.utils import comm
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather
from torch.nn import functional as F

MASKED = -1e4  # of a similarity that takes no part; finite, so that a batch without sound gives 0 and not NaN


class AudioVisualAlignment(nn.Module):
    """Projects sounding objects and sounds into one space and compares them over the whole batch."""

    def __init__(self, *, visual_dim: int, audio_dim: int, embed_dim: int, temperature: float):
        """
        Args:
            visual_dim: d.
            audio_dim: C.
            embed_dim: e.
            temperature: see :func:`alignment_loss`.
        """
        super().__init__()
        self.visual_projection = nn.Linear(visual_dim, embed_dim)
        self.audio_projection = nn.Linear(audio_dim, embed_dim)
        self.temperature = temperature

    def forward(self, mask_features: Tensor, audio: Tensor, objects: Tensor) -> Tensor:
        """
        Args:
            mask_features: f_4, (F, d, h, w).
            audio: embedding of each frame's own second, (F, C).
            objects: share of each object that sounds in each cell, (F, O, h, w), 0 for those that a frame lacks.

        Returns:
            float (), the same on all ranks; see :func:`alignment_loss`.
        """
        sizes = objects.sum((2, 3))
        pooled = torch.einsum("fdhw,fohw->fod", mask_features, objects) / sizes.clamp(min=1)[..., None]
        seen, heard = self.visual_projection(pooled), self.audio_projection(audio)
        present = sizes > 0
        if comm.get_world_size() > 1:
            seen, heard, present = _gather_frames(seen, heard, present)
        return alignment_loss(seen, heard, present, self.temperature)


def alignment_loss(objects: Tensor, audio: Tensor, present: Tensor, temperature: float) -> Tensor:
    """InfoNCE (van den Oord et al. 2018) between sounding objects and the sounds of their frames.

    Each object should tell its own frame's sound from those of the other frames in which something sounds, and each
    sound the objects of its frame from all others.

    Args:
        objects: embeddings (F, O, e).
        audio: embeddings (F, e).
        present: bool (F, O), which objects there are.
        temperature: divides the cosine similarities.

    Returns:
        float (), mean over the objects; 0 where there is none.
    """
    similarity = torch.einsum("foe,ge->fog", F.normalize(objects, dim=2), F.normalize(audio, dim=1)) / temperature
    to_sounds = similarity.masked_fill(~present.any(1), MASKED).log_softmax(2)
    to_objects = similarity.masked_fill(~present[..., None], MASKED).flatten(0, 1).log_softmax(0).view_as(similarity)
    own = torch.diagonal(to_sounds + to_objects, dim1=0, dim2=2).T  # (F, O)
    return -(own * present).sum() / 2 / present.sum().clamp(min=1)


def _gather_frames(*tensors: Tensor) -> Iterator[Tensor]:
    """(F, ...) each of this rank -> those of all ranks, one after the other; gradients flow back to every rank."""
    counts = comm.all_gather(len(tensors[0]))
    for values in tensors:
        padding = values.new_zeros(max(counts) - len(values), *values.shape[1:])
        gathered = all_gather(torch.cat([values, padding]))
        yield torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])
