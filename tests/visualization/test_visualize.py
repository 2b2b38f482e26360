"""The figures of models and runs, and the tool that draws them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from helpers.models import make_decoder, make_features
from matplotlib.figure import Figure
from PIL import Image

from transavs import AVSInputError
from transavs.checkpoint.checkpointer import AVSCheckpointer
from transavs.config.load import load_config
from transavs.data import AVSDatasetMapper
from transavs.evaluation.results import write_results
from transavs.evaluation.scores import CATEGORY, FRAMES, GroupScore, Scores
from transavs.media.images import read_frame
from transavs.modeling.transavs.query_decoder import sine_positions
from transavs.modeling.transavs.semantic_inference import semantic_inference
from transavs.visualization import charts, queries
from transavs.visualization import clips as visualizer
from transavs.visualization.clips import ClipPicture, draw_clips, heat, new_figure, overlay, save_figure
from transavs.visualization.model_grid import Source, compare_models, model_sources
from transavs.visualization.queries import FrameQueries, frame_queries, recorded_attention
from transavs.visualization.records import distinct_names, load_records, pick_records
from transavs.visualization.runs import collect_categories, collect_curves, read_curves

TEST_SET = "synthetic_ms3_test"
TOOL = "tools/visualize.py"
pytestmark = pytest.mark.usefixtures("tiny_catalog")


def save_model(cfg: CfgNode, folder: Path, sounding: bool | None = None) -> Path:
    """A checkpoint of random weights; ``sounding`` makes it predict one class everywhere."""
    model = build_model(cfg)
    if sounding is not None:
        with torch.no_grad():
            model.query_decoder.classifier.weight.zero_()
            model.query_decoder.classifier.bias.copy_(torch.tensor([0.0, 9.0] if sounding else [9.0, 0.0]))
    folder.mkdir(exist_ok=True)
    AVSCheckpointer(model, str(folder), cfg).save("model_final")
    return folder / "model_final.pth"


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """What is drawn, in place of files."""
    found: list[Figure] = []
    for module in (visualizer, charts, queries):
        monkeypatch.setattr(module, "save_figure", lambda figure, path: found.append(figure))
    return found


def test_attention_is_the_softmax_of_queries_and_keys():
    """By hand, layer for layer, from the projections' weights; recording changes nothing in what the decoder gives."""
    decoder = make_decoder().eval()
    mask_features, pyramid = make_features(3)
    audio = torch.randn(1, 3, 10)
    with torch.no_grad():
        expected = decoder(mask_features, pyramid, audio)
        with recorded_attention(decoder) as attention:
            outputs = decoder(mask_features, pyramid, audio)
        fused = decoder.audio_queries(audio)
        assert len(attention) == len(decoder.decoder)
        for number, (layer, found) in enumerate(zip(decoder.decoder, attention, strict=True), start=1):
            level = number % len(pyramid)
            size = pyramid[level].shape[-1]
            values = pyramid[level].flatten(2).transpose(1, 2) + decoder.level_embedding[level]
            keys = values + sine_positions(size, size, 16, values.device)
            weights, biases = layer.attention.in_proj_weight.chunk(3), layer.attention.in_proj_bias.chunk(3)
            asked = (fused + decoder.query_positions) @ weights[0].T + biases[0]
            answered = keys @ weights[1].T + biases[1]
            heads = [
                (q @ k.transpose(1, 2) / math.sqrt(8)).softmax(-1)
                for q, k in zip(asked.split(8, -1), answered.split(8, -1), strict=True)
            ]
            assert found.shape == (3, 4, size, size)
            torch.testing.assert_close(found.flatten(2), sum(heads) / 2)
            torch.testing.assert_close(found.sum((2, 3)), torch.ones(3, 4))
            fused = layer(fused, decoder.query_positions, keys, values)
        decoder(mask_features, pyramid, audio)
    assert len(attention) == len(decoder.decoder)  # outside nothing is recorded
    for name, value in expected.items():
        assert torch.equal(value, outputs[name])


def test_queries_of_one_frame_are_those_of_the_whole_clip(tiny_cfg: CfgNode, ms3_records: list[dict]):
    model = build_model(tiny_cfg).eval()
    clip = AVSDatasetMapper(tiny_cfg, is_train=False)(ms3_records[0])
    found = frame_queries(model, clip, 2)
    with torch.no_grad():
        outputs = model.predict(model.normalize(clip["images"]), torch.stack(model.audio_embeddings([clip])))
        masks = model.resize(outputs["pred_masks"], (32, 32))
    torch.testing.assert_close(found.masks, masks[2].sigmoid())
    torch.testing.assert_close(found.probabilities, outputs["pred_logits"][2].softmax(-1))
    predicted = semantic_inference(outputs["pred_logits"], masks, masks.shape[-2:])[2].argmax(0)
    assert torch.equal(found.probabilities.argmax(1)[found.winners()], predicted)
    with pytest.raises(AVSInputError, match="has no frame 6: choose from 1 to 5"):
        frame_queries(model, clip, 5)


def test_the_strongest_queries_decide_most_pixels():
    probabilities = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.1, 0.9], [0.2, 0.8]])
    masks = torch.tensor([[0.1, 0.2, 0.9, 0.9], [0.0, 0.0, 0.0, 0.0], [0.2, 0.1, 0.1, 0.95], [0.1, 0.1, 0.1, 0.1]])
    found = FrameQueries(probabilities, masks[:, None], [])
    assert found.winners().tolist() == [[2, 0, 0, 2]]
    found = FrameQueries(probabilities, masks[:, None, :3], [])
    assert found.strongest(4) == [0, 2, 3, 1]  # the last two decide nothing: the one that sounds comes first
    assert found.strongest(2) == [0, 2]


def test_figure_of_queries_shows_their_masks_and_attention(
    tiny_cfg: CfgNode, ms3_records: list[dict], figures: list[Figure]
):
    model = build_model(tiny_cfg).eval()
    clip = AVSDatasetMapper(tiny_cfg, is_train=False)(ms3_records[0])
    queries.draw_queries(model, clip, 1, 2, ["background", "sounding"], "unused.png")
    axes = np.array(figures[0].axes[:-1]).reshape(4, 3)  # the last is the color bar
    found, frame = frame_queries(model, clip, 1), read_frame(clip["file_names"][1], "RGB")
    np.testing.assert_array_equal(axes[1, 0].images[0].get_array(), frame)
    for column, query in zip(axes.T[1:], found.strongest(2), strict=True):
        assert column[0].get_title().startswith(f"query {query}: ")
        expected = [heat(frame, found.masks[query].numpy(), (found.winners() == query).numpy())]
        for weights in found.attention[-3:]:
            expected.append(heat(frame, (weights[query] / weights[query].max()).numpy()))
        for axis, image in zip(column, expected, strict=True):
            np.testing.assert_array_equal(axis.images[0].get_array(), image)
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["sound", "frame", "truth", "predicted"]
    assert axes[3, 1].get_ylabel() == "attention, layer 3\n1 x 1"


def test_each_models_row_shows_its_prediction(
    tiny_cfg: CfgNode, tmp_path: Path, figures: list[Figure], ms3_records: list[dict]
):
    sources = {
        name: Source(save_model(tiny_cfg, tmp_path / name, sounding))
        for name, sounding in (("all", True), ("nothing", False))
    }
    pictures = compare_models(sources, ms3_records[:2], "cpu", " heard")
    for picture, record in zip(pictures, ms3_records, strict=False):
        assert picture.title == f"{record['video_id']} heard"
        everywhere, nowhere = picture.predictions.values()
        assert (everywhere == 1).all()
        assert (nowhere == 0).all()
    names = list(pictures[0].predictions)
    assert names[1].startswith("nothing\nJ ")
    draw_clips(pictures, "unused.png")
    blocks = figures[0].subfigs
    assert len(blocks) == 2
    axes = np.array(blocks[0].axes).reshape(5, 5)
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["sound", "frame", "truth", *names]
    for row, value in ((3, 1), (4, 0)):
        frame = pictures[0].frames[4]
        expected = overlay(frame, np.full(frame.shape[:2], value))
        np.testing.assert_array_equal(axes[row, 4].images[0].get_array(), expected)


def test_configs_go_to_the_checkpoints_that_carry_none(tiny_cfg: CfgNode, tmp_path: Path):
    own = save_model(tiny_cfg, tmp_path)
    bare = tmp_path / "bare.pth"
    torch.save({"model": torch.load(own)["model"]}, bare)
    assert model_sources([bare, own], [Path("a.yaml")]) == [Source(bare, Path("a.yaml")), Source(own)]
    with pytest.raises(AVSInputError, match=r"1 checkpoints carry no config \(.*bare.pth\), 0 configs are given"):
        model_sources([own, bare], [])


def test_classes_are_explained_and_masks_of_another_size_fit(figures: list[Figure]):
    frame = np.full((8, 12, 3), 200, dtype=np.uint8)
    mask = np.array([[0, 2], [0, 2]])
    picture = ClipPicture(
        "clip", [frame, frame], np.zeros((2, 96, 64)), [mask, None], {"model": mask[None].repeat(2, 0)}
    )
    draw_clips([picture], "unused.png", ["background", "cat", "dog"])
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["dog"]
    axes = np.array(figures[0].subfigs[0].axes).reshape(4, 2)
    assert axes[2, 0].images[0].get_array().shape == (8, 12, 3)
    assert not axes[2, 1].images  # a frame without ground truth
    assert (overlay(frame, mask)[:, :6] == 110).all()
    draw_clips([picture], "unused.png", ["background", "sounding"])
    assert not figures[1].legends


def test_clips_by_name_or_evenly_spread():
    records = [{"video_id": f"clip{i}"} for i in range(11)]
    assert pick_records(records, ["clip7", "clip2"]) == [records[7], records[2]]
    assert pick_records(records, [], 3) == [records[0], records[5], records[10]]
    assert pick_records(records[:2], [], 3) == records[:2]
    with pytest.raises(AVSInputError, match="no clip 'clip99': name others, such as clip0, clip1"):
        pick_records(records, ["clip99"])
    with pytest.raises(AVSInputError, match="ask for one or more"):
        pick_records(records, [], 0)
    with pytest.raises(AVSInputError, match=r"no data set 'coco_2017_val': choose from .*synthetic_ms3_test"):
        load_records("coco_2017_val")
    silent = load_records(TEST_SET, "silence")
    assert [record["audio_file"] for record in silent] == [None] * len(DatasetCatalog.get(TEST_SET))


def test_names_of_rows():
    paths = [Path("a/seed1"), Path("b/seed1")]
    assert distinct_names(paths, ["one", "two"], lambda path: path.name) == ["one", "two"]
    assert distinct_names(paths, [], lambda path: path.parent.name) == ["a", "b"]
    assert distinct_names(paths, [], lambda path: path.name) == ["a/seed1", "b/seed1"]
    with pytest.raises(AVSInputError, match="1 names are given for 2 paths"):
        distinct_names(paths, ["one"], lambda path: path.name)
    with pytest.raises(AVSInputError, match="not all different"):
        distinct_names(paths, ["one", "one"], lambda path: path.name)


def write_run(folder: Path, metrics: str = "", **results: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(metrics)
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def write_groups(folder: Path, **sets: list[GroupScore]) -> Path:
    write_results({name: {"sem_seg": Scores({"J": 1.0}, groups)} for name, groups in sets.items()}, folder)
    return folder


def test_of_an_iteration_done_twice_the_later_line_counts(tmp_path: Path):
    lines = [
        {"iteration": 19, "total_loss": 5.0},
        {"iteration": 39, "total_loss": 4.0},
        {"iteration": 59, "total_loss": 3.5},
        {"iteration": 39, "total_loss": 4.5, "lr": 0.1},
        {"iteration": 40, "sem_seg/J": 50.0},
        {"iteration": 59, "total_loss": 3.0},
    ]
    text = "\n".join(map(json.dumps, lines)) + '\n{"iteration": 79, "total_l'
    run = write_run(tmp_path / "run", text)
    assert read_curves(run) == {
        "total_loss": {19: 5.0, 39: 4.5, 59: 3.0},
        "lr": {39: 0.1},
        "sem_seg/J": {40: 50.0},
    }
    other = write_run(tmp_path / "other", '{"iteration": 19, "total_loss": 7.0}')
    # J is a metric that is drawn unasked, but not of every run.
    assert collect_curves({"a": run, "b": other}) == {"total_loss": {"a": {19: 5.0, 39: 4.5, 59: 3.0}, "b": {19: 7.0}}}
    with pytest.raises(AVSInputError, match=r"other/metrics\.json has no lr: choose metrics from total_loss"):
        collect_curves({"a": run, "b": other}, ["lr"])
    with pytest.raises(AVSInputError, match=r"empty/metrics\.json holds no metric"):
        read_curves(write_run(tmp_path / "empty"))


def test_curves_have_a_panel_per_metric_and_a_line_per_run(figures: list[Figure]):
    losses = {"a": dict(enumerate(range(60, 0, -1))), "b": {0: 5.0, 20: 4.0}}
    charts.draw_curves({"total_loss": losses, "sem_seg/J": {"a": {40: 80.0}, "b": {40: 70.0}}}, "unused.png")
    loss, jaccard = figures[0].axes
    assert [axis.get_title() for axis in (loss, jaccard)] == ["total_loss", "sem_seg/J"]
    raw, smooth, *_ = loss.lines
    assert raw.get_alpha() < 1
    np.testing.assert_array_equal(raw.get_ydata(), range(60, 0, -1))
    np.testing.assert_allclose(smooth.get_ydata(), range(60, 0, -1))  # a straight line stays: no lag
    assert len(loss.lines) == 4
    assert [line.get_ydata().tolist() for line in jaccard.lines] == [[80.0], [70.0]]
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["a", "b"]
    noise = np.random.default_rng(0).normal(size=200)
    assert charts.smoothed(noise).std() < 0.5 * noise.std()


def test_categories_in_order_of_the_first_run(tmp_path: Path, figures: list[Figure]):
    scores = [
        GroupScore(CATEGORY, "dog", "J", 30.0),
        GroupScore(CATEGORY, "cat", "J", 50.0),
        GroupScore(CATEGORY, "cat", "F", 9.0),
        GroupScore(FRAMES, "small", "J", 2.0),
        GroupScore(CATEGORY, "cat", "J", 4.0, "silence"),
    ]
    others = [GroupScore(CATEGORY, "dog", "J", 70.0), GroupScore(CATEGORY, "owl", "J", 20.0)]
    runs = {"a": write_groups(tmp_path / "a", two=scores), "b": write_groups(tmp_path / "b", one=scores, two=others)}
    values = collect_categories(runs, "J", "two")
    assert list(values.items()) == [("cat", {"a": 50.0}), ("dog", {"a": 30.0, "b": 70.0}), ("owl", {"b": 20.0})]
    assert collect_categories({"a": runs["a"]}, "J_silence") == {"cat": {"a": 4.0}}
    with pytest.raises(AVSInputError, match="test sets one, two: choose one with --dataset"):
        collect_categories(runs, "J")
    with pytest.raises(AVSInputError, match=r"a/groups\.json has no IoU by category"):
        collect_categories(runs, "IoU", "one")
    charts.draw_groups(values, "J", "unused.png")
    axis = figures[0].axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["cat", "dog", "owl"]
    assert axis.yaxis_inverted()  # the first at the top
    assert [[bar.get_width() for bar in bars] for bars in axis.containers] == [[50.0, 30.0], [70.0, 20.0]]


def test_a_figure_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "new/figure.png"
    save_figure(new_figure(1, 1), path)
    before = path.read_bytes()

    def break_off(figure: Figure, file: Path, **options: object) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", break_off)
    with pytest.raises(AVSInputError, match=r"figure\.png cannot be written \(No space left on device\)"):
        save_figure(new_figure(1, 1), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(AVSInputError, match="cannot be written"):
        save_figure(new_figure(1, 1), path / "below_a_file.png")
    with pytest.raises(AVSInputError, match=r"figure\.bmp ends in none of png, jpg, webp, pdf, svg"):
        save_figure(new_figure(1, 1), tmp_path / "figure.bmp")


def test_the_tool_draws_models(tiny_cfg: CfgNode, tmp_path: Path, run_here):
    weights = save_model(tiny_cfg, tmp_path / "model")
    done = run_here(TOOL, "grid", "--dataset", "synthetic_s4_train", "--weights", weights, "--num", 2,
                    "--output", tmp_path / "grid.png")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2/2" in done.stderr
    options = ("--dataset", TEST_SET, "--weights", weights, "--device", "cpu")
    done = run_here(TOOL, "queries", *options, "--frame", 2, "--top", 3, "--output", tmp_path / "queries.webp")
    assert done.returncode == 0, done.stderr
    for name in ("grid.png", "queries.webp"):
        with Image.open(tmp_path / name) as image:
            assert len(image.convert("RGB").getcolors(2**20)) > 500

    wrong = tmp_path / "wrong.pth"
    wrong.write_text("no checkpoint")
    for message, arguments in {
        "there is no data set 'nothing'": ("grid", "--dataset", "nothing", "--weights", weights),
        "there is no clip 'nothing'": ("queries", *options, "--clip", "nothing"),
        "has no frame 9": ("queries", *options, "--frame", 9),
        "wrong.pth cannot be read": ("grid", "--dataset", TEST_SET, "--weights", wrong),
    }.items():
        done = run_here(TOOL, *arguments, "--output", tmp_path / "none.png")
        assert done.returncode == 2
        assert message in done.stderr.splitlines()[-1]
    assert not (tmp_path / "none.png").exists()


def test_a_model_without_queries_is_refused(tmp_path: Path, run_here):
    options = [
        *("MODEL.DEVICE", "cpu", "INPUT.IMAGE_SIZE", "32", "MODEL.RESNETS.BASIC_CHANNELS", "[8, 12, 16, 24]"),
        *("MODEL.SEM_SEG_HEAD.CONVS_DIM", "8", "MODEL.TPAVI.HEAD_CHANNELS", "[8, 8]"),
    ]
    weights = save_model(load_config("configs/comparison/ms3_tpavi.yaml", options), tmp_path)
    done = run_here(TOOL, "queries", "--dataset", TEST_SET, "--weights", weights, "--output", tmp_path / "queries.png")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: a TPAVI has no audio queries to draw: name a checkpoint of TransAVS"


def test_the_tool_draws_runs(tmp_path: Path, run_here):
    scores = [GroupScore(CATEGORY, "dog", "J", 1.0), GroupScore(CATEGORY, "cat", "J", 2.0)]
    runs = [
        write_groups(write_run(tmp_path / name, '{"iteration": 19, "total_loss": 7.0}'), only=scores) for name in "ab"
    ]
    for figure in ("curves", "bars"):
        done = run_here(TOOL, figure, *runs, "--names", "one", "two", "--output", tmp_path / f"{figure}.png")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / f"{figure}.png").stat().st_size > 5000
        done = run_here(TOOL, figure, tmp_path / "nowhere", "--output", tmp_path / "none.png")
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "does not exist: name the folder of a run" in done.stderr
    done = run_here(TOOL, "curves", *runs, "--output", tmp_path / "none.txt")
    assert done.returncode == 2
    assert "ends in none of png" in done.stderr
