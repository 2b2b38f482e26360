"""The evaluator: the same number whatever the batch size, the order and the split over ranks."""

import json
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from PIL import Image

from transavs.data import AVSDatasetMapper
from transavs.evaluation import AVSEvaluator, clip_fscore, clip_jaccard
from transavs.evaluation.avs_evaluator import best_classes, foreground_probabilities
from transavs.evaluation.results import breakdown_table, results_table, write_results
from transavs.visualization.clip_figure import ClipFigure


def make_clips(count: int, size: int = 12) -> tuple[list[dict], list[dict]]:
    """Clips with 5 frames, of which 1, 2, ... are labeled, some without any sounding pixel; and their scores."""
    generator = torch.Generator().manual_seed(0)
    inputs, outputs = [], []
    for i in range(count):
        labeled = torch.arange(1 + i % 5)
        masks = (torch.rand(len(labeled), size, size, generator=generator) < 0.3).long() * (i % 3 > 0)
        names = {"video_id": f"clip{i}", "category": "ab"[i % 2]}
        inputs.append({**names, "labeled_frames": labeled, "masks": masks})
        scores = torch.rand(5, size, size, generator=generator)
        outputs.append({"sem_seg": torch.stack([1 - scores, scores], 1)})
    return inputs, outputs


def evaluate(batches: list[list[int]], count: int = 11) -> dict:
    inputs, outputs = make_clips(count)
    evaluator = AVSEvaluator(["background", "sounding"])
    evaluator.reset()
    for batch in batches:
        evaluator.process([inputs[i] for i in batch], [outputs[i] for i in batch])
    return evaluator.evaluate()


def test_mean_over_clips_of_the_labeled_frames():
    inputs, outputs = make_clips(4)
    found = evaluate([[0, 1, 2, 3]], count=4)["sem_seg"]
    pairs = [(o["sem_seg"][i["labeled_frames"], 1], i["masks"]) for i, o in zip(inputs, outputs, strict=True)]
    assert found["J"] == pytest.approx(100 * sum(clip_jaccard(*pair) for pair in pairs) / 4)
    assert found["F"] == pytest.approx(100 * sum(clip_fscore(*pair) for pair in pairs) / 4)


def test_what_does_not_depend_on_clips_is_counted_over_frames():
    inputs, outputs = make_clips(11)
    found = evaluate([list(range(11))])["sem_seg"]
    scores = torch.cat([o["sem_seg"][i["labeled_frames"], 1] for i, o in zip(inputs, outputs, strict=True)])
    masks = torch.cat([clip["masks"] for clip in inputs]) > 0
    predicted = scores > 0.5
    sounding = masks.any(2).any(1)
    # One clip of all frames: its maximum over thresholds is that of the mean curve.
    assert found["F_curve"] == pytest.approx(100 * clip_fscore(scores, masks))
    hits, false, missed = (
        (a & b).sum().item() for a, b in ((predicted, masks), (predicted, ~masks), (~predicted, masks))
    )
    assert found["J_set"] == pytest.approx(100 * hits / (hits + false + missed))
    assert found["F_set"] == pytest.approx(130 * hits / (0.3 * (hits + missed) + hits + false))
    both = (hits / (hits + false + missed), (masks.numel() - hits - false - missed) / (masks.numel() - hits))
    assert found["mIoU_set"] == pytest.approx(100 * sum(both) / 2)
    assert found["FPR"] == pytest.approx(100 * false / masks.numel())
    fscores = []
    for p, t in zip(predicted[sounding], masks[sounding], strict=True):
        precision, recall = (p & t).sum().item() / p.sum().item(), (p & t).sum().item() / t.sum().item()
        fscores.append(1.3 * precision * recall / (0.3 * precision + recall))
    assert found["F_half"] == pytest.approx(100 * sum(fscores) / len(fscores))


def test_groups_of_frames_and_categories():
    found = evaluate([list(range(11))])["sem_seg"]
    parts = {name: evaluate([[i for i in range(11) if i % 2 == n]])["sem_seg"] for n, name in enumerate("ab")}
    for name, part in parts.items():
        assert found[f"J-{name}"] == pytest.approx(part["J"])
        assert found[f"F-{name}"] == pytest.approx(part["F"])
        assert "J-a" not in part  # one category is the whole
    inputs, outputs = make_clips(11)
    empty = [
        100 * (scores <= 0.5).double().mean().item()
        for clip, output in zip(inputs, outputs, strict=True)
        for scores, mask in zip(output["sem_seg"][clip["labeled_frames"], 1], clip["masks"], strict=True)
        if not mask.any()
    ]
    assert found["J-empty"] == pytest.approx(sum(empty) / len(empty), abs=1e-5)
    assert "J-small" not in found  # noise that sounds in three of ten pixels
    assert 0 < found["J-large"] < found["J-empty"]


def test_with_negative_audio_all_that_is_predicted_is_false():
    inputs, outputs = make_clips(3)
    evaluator = AVSEvaluator(["background", "sounding"], "_silence", is_negative=True)
    evaluator.process(inputs, outputs)
    found = evaluator.evaluate()["sem_seg"]
    scores = torch.cat([o["sem_seg"][i["labeled_frames"], 1] for i, o in zip(inputs, outputs, strict=True)])
    assert found["FPR_silence"] == pytest.approx(100 * (scores > 0.5).double().mean().item())


def test_batches_and_order_do_not_change_the_result():
    expected = evaluate([[i] for i in range(11)])
    for size in (2, 4, 11):
        assert evaluate([list(range(start, min(start + size, 11))) for start in range(0, 11, size)]) == expected
    assert evaluate([[i] for i in torch.randperm(11).tolist()]) == expected


def _evaluate_on_rank(rank: int, shares: list[list[int]], folder: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=len(shares)
    )
    found = evaluate([[i] for i in shares[rank]])
    (folder / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "shares",
    [
        [[0, 1, 2, 3, 4, 5, 6], [5, 6, 7, 8, 9, 10]],
        pytest.param([[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10]], marks=pytest.mark.slow),
        pytest.param([list(range(11)), []], marks=pytest.mark.slow),
    ],
)
def test_two_ranks_give_one_ranks_result(tmp_path: Path, shares: list[list[int]]):
    """Uneven, empty and overlapping shares alike: every clip counts once."""
    mp.start_processes(_evaluate_on_rank, args=(shares, tmp_path), nprocs=2, start_method="spawn")
    assert json.loads((tmp_path / "0.json").read_text()) == evaluate([[i] for i in range(11)])
    assert json.loads((tmp_path / "1.json").read_text()) is None


def test_foreground_is_where_the_best_class_is_not_background():
    sem_seg = torch.rand(2, 5, 3, 3).softmax(1)
    assert torch.equal(foreground_probabilities(sem_seg) > 0.5, sem_seg.argmax(1) > 0)
    coarse = (4 * sem_seg).round()  # equals are many
    assert torch.equal(best_classes(coarse), coarse.argmax(1))
    binary = torch.rand(2, 2, 3, 3).softmax(1)
    torch.testing.assert_close(foreground_probabilities(binary), binary[:, 1])
    assert torch.equal(foreground_probabilities(torch.zeros(1, 3, 2, 2)), torch.zeros(1, 2, 2))


def test_mean_over_classes_does_not_depend_on_batches_and_skips_unknown_predictions():
    generator = torch.Generator().manual_seed(2)
    inputs, outputs = [], []
    for i in range(6):
        masks = torch.randint(0, 3, (2, 6, 6), generator=generator)
        inputs.append({"video_id": str(i), "labeled_frames": torch.tensor([1, 3]), "masks": masks})
        outputs.append({"sem_seg": torch.rand(5, 5, 6, 6, generator=generator)})  # two classes more than the data
    found = []
    for batches in ([[0, 1, 2], [3, 4, 5]], [[5], [3], [4], [1], [0], [2]]):
        evaluator = AVSEvaluator(["background", "a", "b", "never"], "_silence")
        evaluator.reset()
        for batch in batches:
            evaluator.process([inputs[i] for i in batch], [outputs[i] for i in batch])
        found.append(evaluator.evaluate()["sem_seg"])
    assert found[0] == found[1]
    assert {f"{name}_silence" for name in ("J", "F", "mIoU", "mF", "mIoU_fg", "mF_fg")} <= set(found[0])
    per_class = []
    for c in range(4):
        values = []
        for clip, output in zip(inputs, outputs, strict=True):
            for mask, pred in zip(clip["masks"], output["sem_seg"][[1, 3]].argmax(1), strict=True):
                if (mask == c).any() or (pred == c).any():
                    values.append(((mask == c) & (pred == c)).sum().item() / ((mask == c) | (pred == c)).sum().item())
        per_class.append(sum(values) / len(values))  # class 3 is predicted and never true
    assert found[0]["mIoU_silence"] == pytest.approx(100 * sum(per_class) / 4)
    assert found[0]["mIoU_fg_silence"] == pytest.approx(100 * sum(per_class[1:]) / 3)
    assert found[0]["IoU-a_silence"] == pytest.approx(100 * per_class[1])


def test_figure_shows_the_clips(ms3_records: list[dict], tmp_path: Path):
    options = {"is_train": False, "num_classes": 2, "max_objects": 1, "score_size": 0}
    mapper = AVSDatasetMapper(augmentations=[], image_format="RGB", **options)
    clips = [mapper(record) for record in ms3_records]
    outputs = []
    for clip in clips:
        truth = clip["masks"].float()
        outputs.append({"sem_seg": torch.stack([1 - truth, truth], 1)})
    figure = ClipFigure(tmp_path / "out/figure.png", num_clips=2)
    figure.reset()
    figure.process(clips, outputs)
    assert [picture.title.split()[0] for picture in figure._pictures] == [c["video_id"] for c in clips[:2]]
    assert all("J 100.0" in picture.title for picture in figure._pictures)
    figure.evaluate()
    with Image.open(tmp_path / "out/figure.png") as image:
        assert image.width > image.height > 300
        assert len(image.convert("RGB").getcolors(2**20)) > 1000


def test_results_as_file_and_table(tmp_path: Path):
    values = {"J": 71.26, "F": 80.0, "J_silence": 1.0, "F_silence": 2.0, "J-small": 30.04, "J-dog": 50.0, "F-dog": 60.0}
    values |= {"J-dog_silence": 1.0}
    write_results({"a": {"sem_seg": values}}, tmp_path / "one")
    assert json.loads((tmp_path / "one/results.json").read_text()) == values
    assert (tmp_path / "one/results.md").read_text() == f"a\n\n{results_table(values)}\n\n{breakdown_table(values)}\n"
    write_results({"a": {"sem_seg": values}, "b": {"sem_seg": values}}, tmp_path / "two")
    assert json.loads((tmp_path / "two/results.json").read_text()) == {"a": values, "b": values}
    assert (tmp_path / "two/results.md").read_text().count("| true") == 2
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in results_table(values).splitlines()]
    assert rows[0] == ["audio", "J", "F"]
    assert rows[2:] == [["true", "71.3", "80.0"], ["silence", "1.0", "2.0"]]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in breakdown_table(values).splitlines()]
    assert rows[0] == ["of", "J", "F"]
    assert rows[2:] == [["small", "30.0", "-"], ["dog", "50.0", "60.0"]]
