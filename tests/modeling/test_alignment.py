"""The contrastive loss between sounding objects and sounds, against loops over all pairs."""

import math

import pytest
import torch

from transavs.modeling.transavs.alignment import AudioVisualAlignment, alignment_loss

F, OBJECTS, E = 4, 3, 5


def embeddings(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(F, OBJECTS, E, generator=generator), torch.randn(F, E, generator=generator)


def slow_alignment(objects: torch.Tensor, audio: torch.Tensor, present: torch.Tensor, temperature: float) -> float:
    """The sums written out."""

    def likeness(frame: int, number: int, other: int) -> float:
        return math.exp(torch.cosine_similarity(objects[frame, number], audio[other], dim=0).item() / temperature)

    pairs = [(frame, number) for frame in range(F) for number in range(OBJECTS) if present[frame, number]]
    heard = [frame for frame in range(F) if present[frame].any()]
    total = 0.0
    for frame, number in pairs:
        own = likeness(frame, number, frame)
        total -= math.log(own / sum(likeness(frame, number, other) for other in heard)) / 2
        total -= math.log(own / sum(likeness(*pair, frame) for pair in pairs)) / 2
    return total / len(pairs)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_alignment_equals_the_sums_over_pairs(temperature: float):
    objects, audio = embeddings()
    present = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 0], [1, 1, 1]], dtype=torch.bool)
    found = alignment_loss(objects, audio, present, temperature)
    assert found.item() == pytest.approx(slow_alignment(objects, audio, present, temperature), rel=1e-4)


def test_what_takes_no_part_changes_nothing():
    objects, audio = embeddings()
    present = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 0], [1, 1, 1]], dtype=torch.bool)
    expected = alignment_loss(objects, audio, present, 0.1)
    objects[~present], audio[1] = 100.0, -100.0
    assert torch.equal(alignment_loss(objects, audio, present, 0.1), expected)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(alignment_loss(objects[order], audio[order], present[order], 0.1), expected)


def test_a_batch_without_sound_costs_nothing_and_has_finite_gradients():
    alignment = AudioVisualAlignment(visual_dim=6, audio_dim=7, embed_dim=E, temperature=0.1)
    features = torch.randn(F, 6, 4, 4, requires_grad=True)
    loss = alignment(features, torch.randn(F, 7), torch.zeros(F, OBJECTS, 4, 4))
    loss.backward()
    assert loss.item() == 0
    assert not features.grad.any()


def test_features_of_what_sounds_learn_the_sound_and_others_get_no_gradient():
    torch.manual_seed(0)
    alignment = AudioVisualAlignment(visual_dim=6, audio_dim=7, embed_dim=E, temperature=0.1)
    features, audio = torch.randn(F, 6, 4, 4, requires_grad=True), torch.randn(F, 7)
    objects = torch.zeros(F, OBJECTS, 4, 4)
    objects[:, 0, :2, :2], objects[:, 1, 3, 3] = 1, 0.5
    losses = []
    optimizer = torch.optim.Adam([features, *alignment.parameters()], lr=0.05)
    for _ in range(60):
        loss = alignment(features, audio, objects)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert not features.grad[:, :, 2, :3].any()
    # Two objects share each sound: at best it gives each of them half.
    assert losses[-1] < 1.1 * math.log(2) / 2 < losses[0]
