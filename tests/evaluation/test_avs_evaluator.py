"""The evaluator: the same number whatever the batch size, the order and the split over ranks."""

import json
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from PIL import Image

from transavs import AVSInputError
from transavs.data import AVSDatasetMapper
from transavs.data.avsbench import LAYOUTS
from transavs.evaluation import AVSEvaluator, clip_fscore, clip_jaccard
from transavs.evaluation.avs_evaluator import best_classes, foreground_probabilities
from transavs.evaluation.clip_metrics import flat_names
from transavs.evaluation.prediction_writer import PredictionWriter
from transavs.evaluation.results import breakdown_table, results_table, write_results
from transavs.evaluation.scores import CATEGORY, FRAMES, GroupScore, Scores
from transavs.visualization.clip_figure import ClipFigure
from transavs.visualization.runs import collect_categories


def make_clips(count: int, size: int = 12) -> tuple[list[dict], list[dict]]:
    """Clips with 5 frames, of which 1, 2, ... are labeled, some without any sounding pixel; and their scores."""
    generator = torch.Generator().manual_seed(0)
    inputs, outputs = [], []
    for i in range(count):
        labeled = torch.arange(1 + i % 5)
        masks = (torch.rand(len(labeled), size, size, generator=generator) < 0.3).long() * (i % 3 > 0)
        names = {"video_id": f"clip{i}", "category": "ab"[i % 2], "index": i}
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


def published_fscore(inputs: list[dict], outputs: list[dict], batch: int) -> float:
    """AVSBench's test loop written out: the maximum of each batch's mean curve, averaged over batches."""
    values = []
    for start in range(0, len(inputs), batch):
        curves = []
        for clip, output in zip(inputs[start : start + batch], outputs[start : start + batch], strict=True):
            for scores, mask in zip(output["sem_seg"][clip["labeled_frames"], 1], clip["masks"] > 0, strict=True):
                if not mask.any():
                    continue
                curve = []
                for threshold in torch.linspace(0, 1 - 1e-10, 255):
                    predicted = scores >= threshold
                    hits = (predicted & mask).sum().item()
                    precision, recall = hits / (predicted.sum().item() + 1e-20), hits / (mask.sum().item() + 1e-20)
                    weighted = 0.3 * precision + recall
                    curve.append(1.3 * precision * recall / weighted if weighted else 0.0)
                curves.append(curve)
        values.append(torch.tensor(curves).mean(0).max().item() if curves else 0.0)
    return 100 * sum(values) / len(values)


@pytest.mark.parametrize("count", [1, 4, 5, 9])
def test_f_batch4_is_the_published_loop_in_the_order_of_the_csv(count: int):
    """Of clips whose scores are off by a different factor each, in an order that is not that of their names."""
    inputs, outputs = make_clips(count, size=8)
    for i, (clip, output) in enumerate(zip(inputs, outputs, strict=True)):
        clip["index"] = count - i
        output["sem_seg"][:, 1] = 0.1 * (i % 4 + 1) * output["sem_seg"][:, 1] + 0.3 * (i % 3) / 2
        output["sem_seg"][:, 0] = 1 - output["sem_seg"][:, 1]
    expected = published_fscore(inputs[::-1], outputs[::-1], 4)
    for order in (range(count), torch.randperm(count, generator=torch.manual_seed(1)).tolist()):
        evaluator = AVSEvaluator(["background", "sounding"])
        for i in order:
            evaluator.process([inputs[i]], [outputs[i]])
        found = evaluator.evaluate()["sem_seg"]
        assert found["F_batch4"] == pytest.approx(expected, abs=1e-4)
        assert found["F"] == pytest.approx(published_fscore(inputs, outputs, 1), abs=1e-4)
    if count == 9:
        assert abs(expected - published_fscore(inputs, outputs, 4)) > 0.01


def clip_of(video_id: str, right: bool, **more: object) -> tuple[list[dict], list[dict]]:
    masks = torch.zeros(5, 8, 8, dtype=torch.long)
    masks[:, :4] = 1
    predicted = masks * right
    clip = {"video_id": video_id, "masks": masks, "labeled_frames": torch.arange(5), **more}
    return [clip], [{"sem_seg": torch.stack([1 - predicted, predicted], 1).float()}]


def test_clips_of_one_name_in_two_categories_count_as_two(tmp_path: Path):
    evaluators = [
        AVSEvaluator(["background", "sounding"]),
        PredictionWriter(tmp_path, ["rle", "coco"], ["", "sounding"]),
    ]
    for category, right in (("cat", True), ("dog", False)):
        record = LAYOUTS["s4"].record(tmp_path, video="001", category=category, split="test")
        clip, output = clip_of("", right)
        for evaluator in evaluators:
            evaluator.process([clip[0] | record | {"labeled_frames": torch.arange(5)}], output)
    found, _ = (evaluator.evaluate() for evaluator in evaluators)
    assert found["sem_seg"]["J"] == pytest.approx(50)
    assert (found["sem_seg"]["J-cat"], found["sem_seg"]["J-dog"]) == pytest.approx((100, 0))
    assert {code["video_id"] for code in json.loads((tmp_path / "predictions.json").read_text())} == {"cat/001"}
    images = json.loads((tmp_path / "coco.json").read_text())["images"]
    assert [image["video_id"] for image in images] == [*["cat/001"] * 5, *["dog/001"] * 5]


@pytest.mark.parametrize("known_by", ["index", "mask_file_names", ""])
def test_two_clips_of_one_id_are_refused(known_by: str):
    evaluator = AVSEvaluator(["background", "sounding"])
    options = [{known_by: [f"{i}.png"] if known_by == "mask_file_names" else i} if known_by else {} for i in range(2)]
    evaluator.process(*clip_of("a", True, **options[0]))
    if known_by:
        evaluator.process(*clip_of("a", True, **options[0]))  # the same again, as samplers that pad give it
    with pytest.raises(AVSInputError, match="'a'") as error:
        evaluator.process(*clip_of("a", False, **options[1]))
    assert "\n" not in str(error.value)
    evaluator.reset()
    evaluator.process(*clip_of("a", True, **options[0]))
    assert evaluator.evaluate()["sem_seg"]["J"] == pytest.approx(100)


def test_no_clip_makes_no_scores(tmp_path: Path):
    with pytest.raises(AVSInputError, match="no clip was scored: "):
        AVSEvaluator(["background", "sounding"]).evaluate()
    PredictionWriter(tmp_path, ["rle", "coco"], ["background", "sounding"]).evaluate()
    assert json.loads((tmp_path / "predictions.json").read_text()) == []
    assert json.loads((tmp_path / "coco.json").read_text())["images"] == []


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


def scores_of(categories: dict[str, float], suffix: str = "", **more: float) -> Scores:
    groups = [GroupScore(FRAMES, "small", "J", 30.04)]
    groups += [GroupScore(CATEGORY, name, metric, value) for name, value in categories.items() for metric in "JF"]
    return Scores({"J": 71.26, "F": 80.0} | more | flat_names(groups), groups).under(suffix)


def table_rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines() if row.startswith("|")]


def test_results_as_file_and_table(tmp_path: Path):
    scores = Scores.merged([scores_of({"dog": 50.0}, FPR=2.0), scores_of({"dog": 1.0}, "_silence", FPR=3.0)])
    assert scores["J-dog_silence"] == 1.0
    write_results({"a": {"sem_seg": scores}}, tmp_path / "one")
    assert json.loads((tmp_path / "one/results.json").read_text()) == scores
    table = f"a\n\n{results_table(scores)}\n\n{breakdown_table(scores.groups)}\n"
    assert (tmp_path / "one/results.md").read_text() == table
    write_results({"a": {"sem_seg": scores}, "b": {"sem_seg": {"J": 1.0, "F": 2.0}}}, tmp_path / "two")
    assert json.loads((tmp_path / "two/results.json").read_text()) == {"a": scores, "b": {"J": 1.0, "F": 2.0}}
    assert (tmp_path / "two/results.md").read_text().count("| true") == 2
    values = {name: value for name, value in scores.items() if not name.startswith("FPR")}
    rows = table_rows(results_table(values))
    assert rows[0] == ["audio", "J", "F"]
    assert rows[2:] == [["true", "71.3", "80.0"], ["silence", "71.3", "80.0"]]
    rows = table_rows(breakdown_table(scores.groups))
    assert rows[0] == ["by", "of", "J", "F"]
    assert rows[2:] == [["frames", "small", "30.0", "-"], ["category", "dog", "50.0", "50.0"]]


AWKWARD = ["dog", "dog_silence", "small", "one", "a-b", "007", "x|y", "_silence", "true"]


def test_no_name_of_a_category_is_mistaken_for_another(tmp_path: Path):
    """Each category has a J of its own under each audio; the frames are 1/8 to 1/2 of the image: "medium", "large"."""
    expected: dict[str, dict[str, float]] = {}
    found = []
    for suffix in ("", "_silence"):
        evaluator = AVSEvaluator(["background", "sounding"], suffix)
        for number, category in enumerate(AWKWARD):
            masks = torch.zeros(1, 8, 8, dtype=torch.long)
            masks[:, : 1 + number % 4] = 1
            predicted = torch.zeros(1, 8, 8)
            predicted[:, : 5 if suffix else 6, : number % 8 + 1] = 1
            clip = {"video_id": category, "category": category, "masks": masks, "labeled_frames": torch.tensor([0])}
            evaluator.process([clip], [{"sem_seg": torch.stack([1 - predicted, predicted], 1)}])
            expected.setdefault(suffix, {})[category] = 100 * clip_jaccard(predicted, masks)
        found.append(evaluator.evaluate()["sem_seg"])
    scores = Scores.merged(found)
    write_results({"set": {"sem_seg": scores}}, tmp_path)
    for suffix, values in expected.items():
        drawn = collect_categories({"run": tmp_path}, f"J{suffix}")
        assert {name: run["run"] for name, run in drawn.items()} == pytest.approx(values)
    table = (tmp_path / "results.md").read_text().replace("\\|", "!")
    rows = {(by, of): float(j) for by, of, j, *_ in table_rows(table)
            if by == "category"}  # fmt: skip
    assert rows == {
        ("category", name.replace("|", "!")): pytest.approx(v, abs=0.051) for name, v in expected[""].items()
    }
    flat = json.loads((tmp_path / "results.json").read_text())
    assert "J-dog_silence" not in flat  # two things would have that name
    assert "J-small" not in flat  # frames of that size do not occur
    assert flat["J-one"] == pytest.approx(sum(expected[""].values()) / len(AWKWARD))
    assert flat["J-a-b_silence"] == pytest.approx(expected["_silence"]["a-b"])


def test_classes_with_names_of_audio_conditions(tmp_path: Path):
    names = ["background", "white", "white_noise", "small", "dog_shuffled"]
    found = []
    for suffix in ("", "_noise", "_shuffled"):
        evaluator = AVSEvaluator(names, suffix)
        masks = torch.arange(5).repeat(2, 8, 2)[..., :8]
        predicted = masks.clone()
        predicted[:, : 1 + len(suffix) % 3] = 0
        clip = {"video_id": "a", "masks": masks, "labeled_frames": torch.arange(2)}
        one_hot = torch.nn.functional.one_hot(predicted, 5).permute(0, 3, 1, 2).float()
        evaluator.process([clip], [{"sem_seg": one_hot}])
        found.append(evaluator.evaluate()["sem_seg"])
        expected = {
            name: 100 * ((masks == c) & (predicted == c)).sum().item() / ((masks == c) | (predicted == c)).sum().item()
            for c, name in enumerate(names)
        }
        write_results({"one/set": {"sem_seg": Scores.merged(found)}, "other": {"sem_seg": found[-1]}}, tmp_path)
        drawn = collect_categories({"run": tmp_path}, f"IoU{suffix}", "one/set")
        assert {name: run["run"] for name, run in drawn.items()} == pytest.approx(expected)
