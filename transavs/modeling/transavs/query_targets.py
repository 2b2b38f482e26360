"""Rules for the ground truth of each query; TransAVS matches nothing, so they decide query by query.

Shape legend: F labeled frames, N queries, K classes, O objects, R regions, h x w the predicted masks.

A rule gives every query the class that its class loss asks for and, if it likes, the regions that its own mask should
cover. All rules see the same :class:`TargetInputs` and none solves an assignment between queries and objects.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from transavs.utils.errors import AVSInputError


@dataclass(frozen=True)
class TargetInputs:
    """Inputs of a rule; nothing in it carries gradients.

    An object is a connected part of one class in the ground truth; objects that a frame lacks are empty.
    """

    probabilities: Tensor  # p, (F, N, K)
    masks: Tensor  # m, (F, N, h, w) in [0, 1]
    shares: Tensor  # of each class in each cell, (F, K, h, w), summing to 1 over K
    objects: Tensor  # share of each object in each cell, (F, O, h, w)
    object_classes: Tensor  # int64 (F, O), 0 where the object is empty

    def coverage(self, regions: Tensor) -> Tensor:
        """Mass of each query's mask in each of the regions (F, R, h, w): (F, N, R)."""
        return torch.einsum("fnhw,frhw->fnr", self.masks, regions)

    def similarity(self, regions: Tensor) -> Tensor:
        """Soft Dice coefficient of each query's mask with each of the regions, 0 for empty ones: (F, N, R)."""
        sizes = self.masks.sum((2, 3))[:, :, None] + regions.sum((2, 3))[:, None]
        return 2 * self.coverage(regions) / sizes.clamp(min=1)


@dataclass(frozen=True)
class QueryTargets:
    """Target of each query."""

    labels: Tensor  # int64 (F, N)
    regions: Tensor | None = None  # (F, R, h, w)
    chosen: Tensor | None = None  # bool (F, N, R): the regions that a query's mask should cover
    most_chosen: int | None = None  # queries of a frame that are chosen for any region, where the rule limits them


def majority(inputs: TargetInputs, queries_per_object: int) -> QueryTargets:
    """The class on which most of the query's soft mask lies; for K = 2, sounding if more than half of it does."""
    return QueryTargets(inputs.coverage(inputs.shares).argmax(-1))


def density(inputs: TargetInputs, queries_per_object: int) -> QueryTargets:
    """The class in whose region the query's mask is densest, so that a small region counts as much as a large one."""
    return QueryTargets(_densest(inputs))


def nearest(inputs: TargetInputs, queries_per_object: int) -> QueryTargets:
    """Choose classes by :func:`density`, and for each sounding query the object most like its mask."""
    labels = _densest(inputs)
    similarity = inputs.similarity(inputs.objects)
    best = torch.zeros_like(similarity, dtype=torch.bool).scatter(2, similarity.argmax(2, keepdim=True), True)
    chosen = best & (labels > 0)[..., None] & (inputs.object_classes > 0)[:, None]
    return QueryTargets(labels, inputs.objects, chosen)


def object_wise(inputs: TargetInputs, queries_per_object: int) -> QueryTargets:
    """Give each object queries of its own, those most like it in class and mask; the rest: :func:`majority`.

    What counts is how much more a query's mask is like this object than like any other: one that is sure of another
    object is left to it.
    """
    classes = inputs.object_classes[:, None].expand(-1, inputs.masks.shape[1], -1)
    similarity = inputs.similarity(inputs.objects)
    highest = F.pad(similarity, (0, 1)).topk(2, dim=2).values
    others = torch.where(similarity == highest[..., :1], highest[..., 1:], highest[..., :1])
    score = similarity - others + inputs.probabilities.gather(2, classes)
    chosen = deal_queries(score, inputs.object_classes > 0, queries_per_object)
    own = (chosen * inputs.object_classes[:, None]).amax(-1)
    labels = torch.where(own > 0, own, majority(inputs, queries_per_object).labels)
    return QueryTargets(labels, inputs.objects, chosen, most_chosen=queries_per_object * inputs.objects.shape[1])


def deal_queries(score: Tensor, present: Tensor, queries_per_object: int) -> Tensor:
    """Deal queries to objects in rounds: each object that is present gets one more in every round.

    Within a round the best pair of an object that waits and a free query comes first. So an object that no query draws
    yet gets its share too, if need be of queries that would suit another object better but are left over. Where there
    are too few queries for all, every object has one before any has two.

    Args:
        score: of each query for each object, (F, N, O).
        present: bool (F, O).
        queries_per_object: rounds.

    Returns:
        bool (F, N, O): no query has two objects.
    """
    frames = torch.arange(len(score), device=score.device)
    free = score.masked_fill(~present[:, None], -torch.inf)
    chosen = torch.zeros_like(score, dtype=torch.bool)
    for _ in range(min(queries_per_object, score.shape[1])):
        waiting = free.clone()
        for _ in range(score.shape[2]):
            best = waiting.flatten(1).argmax(1)
            query, its_object = best // score.shape[2], best % score.shape[2]
            is_pair = waiting[frames, query, its_object] > -torch.inf  # else all have had their turn
            chosen[frames, query, its_object] |= is_pair
            free[frames, query] = free[frames, query].masked_fill(is_pair[:, None], -torch.inf)
            waiting[frames, query] = -torch.inf
            waiting[frames, :, its_object] = -torch.inf
    return chosen


def fixed(inputs: TargetInputs, queries_per_object: int) -> QueryTargets:
    """Query i stands for class i mod K and covers that class's region; where a frame lacks it, its label is background.

    Raises:
        AVSInputError: there are more classes than queries.
    """
    queries, num_classes = inputs.masks.shape[1], inputs.shares.shape[1]
    if queries < num_classes:
        raise AVSInputError(
            f"MODEL.TRANSAVS.NUM_OBJECT_QUERIES is {queries} and QUERY_TARGET 'fixed' needs one for each of "
            f"{num_classes} classes: ask for more queries"
        )
    classes = torch.arange(queries, device=inputs.masks.device) % num_classes
    present = (inputs.shares.sum((2, 3)) > 0)[:, classes]  # (F, N)
    chosen = torch.nn.functional.one_hot(classes, num_classes).bool() & present[..., None]
    return QueryTargets(torch.where(present, classes, 0), inputs.shares, chosen)


def _densest(inputs: TargetInputs) -> Tensor:
    area = inputs.shares.sum((2, 3))[:, None]
    density = inputs.coverage(inputs.shares) / area.clamp(min=1)
    return density.masked_fill(area == 0, -1).argmax(-1)


QUERY_TARGETS: dict[str, Callable[[TargetInputs, int], QueryTargets]] = {
    "majority": majority,
    "density": density,
    "nearest": nearest,
    "object": object_wise,
    "fixed": fixed,
}
