#!/usr/bin/env python
"""Time of AVSBench's F over a test set, by one histogram pass and by its 255 comparisons written out.

python tests/benchmarks/fscore.py --clips 740 --size 224

Both take turns on the same clips of five frames; their results are compared.
"""

import argparse
import sys
import time

import torch
from torch import Tensor
from tqdm import tqdm

from transavs.evaluation.metrics import clip_fscore

FRAMES, THRESHOLDS = 5, 255


def literal_fscore(scores: Tensor, masks: Tensor) -> float:
    """As published: for each frame and threshold, compare, multiply and sum."""
    curves = []
    for score, mask in zip(scores, masks.float(), strict=True):
        if not mask.any():
            continue
        curve = torch.zeros(THRESHOLDS)
        for index, threshold in enumerate(torch.linspace(0, 1 - 1e-10, THRESHOLDS)):
            predicted = (score >= threshold).float()
            hits = (predicted * mask).sum()
            precision, recall = hits / (predicted.sum() + 1e-20), hits / (mask.sum() + 1e-20)
            curve[index] = (1.3 * precision * recall / (0.3 * precision + recall)).nan_to_num()
        curves.append(curve)
    return torch.stack(curves).mean(0).max().item() if curves else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=740)
    parser.add_argument("--size", type=int, default=224)
    args = parser.parse_args()
    taken, difference = {clip_fscore: 0.0, literal_fscore: 0.0}, 0.0
    for seed in tqdm(range(args.clips), unit="clip"):
        generator = torch.Generator().manual_seed(seed)
        scores = torch.rand(FRAMES, args.size, args.size, generator=generator)
        masks = torch.rand(FRAMES, args.size, args.size, generator=generator) < scores.square()
        found = []
        for function in taken:
            start = time.perf_counter()
            found.append(function(scores, masks))
            taken[function] += time.perf_counter() - start
        difference = max(difference, abs(found[0] - found[1]))
    histogram, literal = taken.values()
    sys.stdout.write(
        f"{args.clips} clips of {FRAMES} x {args.size} x {args.size}: histogram {histogram:.1f} s, "
        f"literal {literal:.1f} s, ratio {literal / histogram:.1f}, largest difference {difference:.1e}\n"
    )


if __name__ == "__main__":
    main()
