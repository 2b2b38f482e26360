"""Every tool on bad inputs: one line that names the thing and the mend, status 2, nothing half-written."""

from pathlib import Path

import pytest
from helpers.bad_inputs import (
    Bad,
    Good,
    Make,
    asks,
    changed_checkpoint,
    folder,
    holds,
    image,
    masks_with,
    nothing,
    part_of,
    png_header,
    saves,
)
from helpers.repository import REPOSITORY
from helpers.videos import make_video

DEMO, WEB = "tools/demo.py", "tools/web_demo.py"
EXPORT, CONVERT, SCORE = "tools/export_model.py", "tools/convert_weights.py", "tools/score_masks.py"
VISUALIZE, BENCHMARK, ABLATIONS = "tools/visualize.py", "tools/benchmark.py", "tools/run_ablations.py"
CHECK, SYNTHETIC, VIDEO = "datasets/check_avsbench.py", "datasets/prepare_synthetic.py", "datasets/prepare_video.py"
INSTALL = "tools/install_detectron2.py"


def demo(make: Make, file: str, names: str, mend: str) -> Bad:
    """A bad video."""
    return Bad(DEMO, "--weights {weights} --input {bad} --output {out}.mp4", names, mend, make, file)


def weights(make: Make, names: str, mend: str, file: str = "bad.pth") -> Bad:
    """A bad checkpoint."""
    return Bad(DEMO, "--weights {bad} --device cpu --input {video} --output {out}.mp4", names, mend, make, file)


DEMO_RUN = "--weights {weights} --device cpu --input {video} --output {out}.mp4"
GRID = "grid --dataset synthetic_ms3_test --weights {weights} --device cpu --output {out}.png"
SCORE_RUN = "--pred {masks} --gt {masks} --json {out}"
SYNTHETIC_RUN = "--datasets {out} --subsets ms3 --workers 1"

CHECKPOINTS = {
    "weights: none": weights(nothing, "{bad} does not exist", "name its file"),
    "weights: a folder": weights(folder, "{bad} does not exist", "name its file"),
    "weights: empty": weights(holds(b""), "{bad} cannot be read", "name a good file"),
    "weights: words": weights(holds("words"), "{bad} cannot be read", "name a good file"),
    "weights: cut": weights(part_of("weights"), "{bad} cannot be read", "name a good file"),
    "weights: a list": weights(saves([1, 2]), "{bad} holds a list", "name a checkpoint"),
    "weights: no config": weights(changed_checkpoint(config=None), "{bad} carries no config", "name the one"),
    "weights: config is a number": weights(changed_checkpoint(config=3), "the config in {bad}", "give a config file"),
    "weights: config of words": weights(changed_checkpoint(config="a"), "the config in {bad}", "give a config file"),
    "weights: config runs code": weights(
        changed_checkpoint(config="SEED: !!python/name:os.system"), "the config in {bad}", "give a config file"
    ),
    "weights: config out of range": weights(
        changed_checkpoint(config="INPUT: {IMAGE_SIZE: 0}"), "INPUT.IMAGE_SIZE is 0", "give a config file"
    ),
    "weights: another model's": weights(
        changed_checkpoint(model={}), "{bad} holds no parameter", "name one of its own"
    ),
    "weights: a program of words": weights(holds("words"), "{bad} cannot be read", "tools/export_model.py", "bad.pt2"),
    "weights: a graph of words": weights(holds("words"), "{bad} cannot be read", "tools/export_model.py", "bad.onnx"),
    "weights: a config for a program": asks(
        DEMO,
        "--weights a.pt2 --config-file {config} --input {video}",
        "a.pt2 is an exported model",
        "leave {config} out",
    ),
    "device: unknown": asks(DEMO, f"{DEMO_RUN} --device abacus", "'abacus' cannot be used here", "name another"),
    "device: of 100": asks(
        EXPORT, "--weights {bad} --output {out}.onnx", "{bad} cannot be read", "name a good", holds("")
    ),
}

VIDEOS = {
    "video: none": demo(nothing, "bad.mp4", "{bad} does not exist", "name a video"),
    "video: empty": demo(holds(b""), "bad.mp4", "{bad} is empty", "record it again"),
    "video: words": demo(holds("words\n" * 99), "bad.mp4", "{bad} cannot be read as a video", "copy it again"),
    "video: cut": demo(part_of("video", 0.6), "bad.mp4", "{bad} cannot be read as a video", "copy it again"),
    "video: an image": demo(image(), "bad.mp4", "{bad} is an image", "name a video"),
    "video: silent film": demo(
        lambda path, good: make_video(path, sound=False, seconds=1), "bad.mp4", "{bad} holds no sound", "name one"
    ),
    "video: sound alone": demo(
        lambda path, good: make_video(path, picture=False, seconds=1),
        "bad.mp4",
        "{bad} holds no moving",
        "name a video",
    ),
    "video: a playlist": demo(
        holds("ffconcat version 1.0\nfile video.mp4\n"), "bad.mp4", "{bad} cannot be read as a video", "copy it again"
    ),
    "video: an empty folder": asks(
        DEMO, "--weights {weights} --input {bad} --output {out}", "{bad} holds no video", "name another", folder
    ),
    "video: to a GIF": asks(DEMO, "--weights {weights} --input {video} --output {out}.gif", "{out}.gif", ".mp4"),
    "video: masks into a file": asks(
        DEMO,
        "--weights {weights} --input {video} --masks {bad}",
        "{bad} cannot be made a folder",
        "name another",
        holds(""),
    ),
    "video: JSON below a file": asks(
        DEMO,
        "--weights {weights} --input {video} --json {bad}/a",
        "{bad}/a cannot be written",
        "name another",
        holds(""),
    ),
    "demo: negative rate": asks(DEMO, f"{DEMO_RUN} --fps -1", "the rate of masks is -1", "give a number per second"),
    "demo: rate is no number": asks(DEMO, f"{DEMO_RUN} --fps nan", "the rate of masks is nan", "give a number"),
    "demo: threshold": asks(DEMO, f"{DEMO_RUN} --threshold 2", "--threshold is 2", "from 0 to 1"),
    "demo: overlap": asks(DEMO, f"{DEMO_RUN} --overlap 9", "overlap is 9", "give 0 to"),
    "demo: smoothing": asks(DEMO, f"{DEMO_RUN} --smoothing nan", "smoothing nan", "give at least 0"),
    "demo: rate of words": asks(DEMO, f"{DEMO_RUN} --fps often", "--fps", "invalid float value: 'often'"),
    "demo: no input": asks(DEMO, "--weights {weights}", "--input", "required"),
    "web: no time": asks(WEB, "--weights {weights} --max-seconds 0", "the limits are 0.0 s", "above 0"),
    "web: time is no number": asks(WEB, "--weights {weights} --max-seconds nan", "the limits are nan s", "above 0"),
    "web: port": asks(WEB, "--weights {weights} --port 99999", "--port is 99999", "give one from 1"),
}

OTHERS = {
    "export: suffix": asks(EXPORT, "--weights {weights} --output {out}.zip", "{out}.zip: the suffix", ".onnx"),
    "export: no folder": asks(EXPORT, "--weights {weights} --output {out}/a.pt2", "{out} does not exist", "make it"),
    "convert: none": asks(CONVERT, "torchvision {bad} {out}", "{bad} cannot be read as weights", "name a .pth"),
    "convert: words": asks(CONVERT, "torchvggish {bad} {out}", "{bad} cannot be read", "name a .pth", holds("words")),
    "convert: safetensors of words": asks(
        CONVERT,
        "torchvision {bad} {out}",
        "{bad} cannot be read",
        ".safetensors",
        holds("words" * 9),
        "bad.safetensors",
    ),
    "convert: a number": asks(CONVERT, "torchvision {bad} {out}", "{bad} cannot be read", "name a .pth", saves(3)),
    "convert: nothing of the kind": asks(CONVERT, "torchvision {weights} {out}", "nothing in {weights}", "kind"),
    "convert: no model": asks(CONVERT, "timm {weights} {out}", "timm weights", "--model"),
    "convert: unknown model": asks(CONVERT, "timm {weights} {out} --model foo", "'foo'", "correct NAME"),
    "convert: kind": asks(CONVERT, "caffe {weights} {out}", "'caffe'", "choose from"),
    "score: no truth": asks(SCORE, "--pred {masks} --gt {bad} --json {out}", "{bad} holds no PNG", "name the folder"),
    "score: no predictions": asks(
        SCORE, "--pred {bad} --gt {masks} --json {out}", "missing, the first is {bad}", "write one"
    ),
    "score: broken": asks(
        SCORE,
        "--pred {bad} --gt {masks} --json {out}",
        "cannot be read as a mask",
        "write the prediction again",
        masks_with(lambda path: path.write_bytes(path.read_bytes()[:60])),
    ),
    "score: size": asks(
        SCORE,
        "--pred {bad} --gt {masks} --json {out}",
        "is 9 x 9 pixels",
        "--size",
        masks_with(lambda p: image((9, 9))(p, None)),
    ),
    "score: a bomb": asks(
        SCORE,
        "--pred {bad} --gt {masks} --json {out}",
        "has more pixels",
        "make the image smaller",
        masks_with(lambda path: path.write_bytes(png_header(60000, 60000))),
    ),
    "score: negative size": asks(SCORE, f"{SCORE_RUN} --size -1", "the size to score at is -1", "give 0"),
    "score: setting": asks(SCORE, f"{SCORE_RUN} --setting s5", "'s5'", "choose from"),
    "score: no class names": asks(
        SCORE, f"{SCORE_RUN} --setting avss --dataset {{bad}}", "{bad}/label2idx.json", "restore"
    ),
    "score: JSON in no folder": asks(SCORE, "--pred {masks} --gt {masks} --json {bad}/a", "{bad}/a", "name another"),
    "visualize: data set": asks(VISUALIZE, f"{GRID} --dataset foo", "no data set 'foo'", "choose from"),
    "visualize: clip": asks(VISUALIZE, f"{GRID} --clips foo", "no clip 'foo'", "name others"),
    "visualize: no clips": asks(VISUALIZE, f"{GRID} --num 0", "0 clips make no figure", "ask for one"),
    "visualize: names": asks(VISUALIZE, f"{GRID} --names a b", "2 names are given for 1", "give one for each"),
    "visualize: kind": asks(VISUALIZE, "curves {run} --output {out}.gif", "{out}.gif ends in none of", "name such"),
    "visualize: weights": asks(
        VISUALIZE, f"{GRID} --weights {{bad}}", "{bad} cannot be read", "name a good", holds("")
    ),
    "visualize: frame": asks(
        VISUALIZE, GRID.replace("grid", "queries") + " --frame 9", "has no frame 9", "choose from 1 to 5"
    ),
    "visualize: no run": asks(
        VISUALIZE, "curves {bad} --output {out}.png", "{bad}/metrics.json does not exist", "name"
    ),
    "visualize: metric": asks(
        VISUALIZE, "curves {run} --metrics foo --output {out}.png", "has no foo", "choose metrics"
    ),
    "visualize: no results": asks(VISUALIZE, "bars {bad} --output {out}.png", "{bad}/results.json", "name the folder"),
    "visualize: into a file": asks(
        VISUALIZE, "curves {run} --output {bad}/a.png", "{bad}/a.png cannot be written", "name another", holds("")
    ),
    "benchmark: device": asks(
        BENCHMARK, "--config-file {config} --device cuda:77", "'cuda:77' cannot be used", "name another"
    ),
    "benchmark: rounds": asks(BENCHMARK, "--config-file {config} --rounds 0", "--rounds 0", "give 1 or more"),
    "benchmark: JSON": asks(
        BENCHMARK, "--config-file {config} --json {bad}/a", "{bad}/a cannot be written", "name another"
    ),
    "benchmark: values": asks(
        BENCHMARK, "--config-file {config} --vary clips 0", "--vary clips 0", "give whole numbers"
    ),
    "ablations: jobs": asks(
        ABLATIONS, "--configs {config} --output {out} --jobs 0", "'0' is no whole number", "from 1 on"
    ),
    "ablations: seeds": asks(
        ABLATIONS, "--configs {config} --output {out} --seeds x", "'x' is no whole number", "from 0 on"
    ),
    "ablations: config": asks(ABLATIONS, "--configs {bad} --output {out}", "'{bad}' does not exist", "name a file"),
    "ablations: column": asks(
        ABLATIONS, "--configs {config} --output {out} --settings FOO", "FOO is no key", "transavs/config/defaults.py"
    ),
    "check: nothing there": asks(CHECK, "{bad}", "{bad} holds no AVSBench", "name the folder"),
    "check: a file": asks(CHECK, "{bad}", "{bad} holds no AVSBench", "name the folder", holds("")),
    "check: subset": asks(CHECK, "{tree} --subsets s5", "'s5'", "choose from"),
    "check: workers": asks(CHECK, "{tree} --workers 0", "'0' is no whole number", "from 1 on"),
    "check: JSON": asks(CHECK, "{tree} --json {bad}/a", "{bad}/a cannot be written", "name another"),
    "synthetic: size": asks(SYNTHETIC, f"{SYNTHETIC_RUN} --size 0", "frames of 0 pixels", "give 16 to"),
    "synthetic: clips": asks(SYNTHETIC, f"{SYNTHETIC_RUN} --clips -1 0 0", "-1", "0 clips or more"),
    "synthetic: seed": asks(SYNTHETIC, f"{SYNTHETIC_RUN} --seed -1", "seed -1", "a seed from 0 on"),
    "synthetic: workers": asks(SYNTHETIC, f"{SYNTHETIC_RUN} --workers 0", "0 workers", "1 worker or more"),
    "synthetic: into a file": asks(
        SYNTHETIC, "--datasets {bad} --subsets ms3 --clips 0 0 1 --workers 1", "{bad}", "name another", holds("")
    ),
    "synthetic video: no time": asks(VIDEO, "--output {out}.mp4 --seconds 0", "0.0 s at", "a frame or more"),
    "synthetic video: endless": asks(VIDEO, "--output {out}.mp4 --seconds inf", "inf s at", "a frame or more"),
    "synthetic video: rate": asks(VIDEO, "--output {out}.mp4 --fps nan", "nan frames per second", "a frame or more"),
    "synthetic video: size": asks(VIDEO, "--output {out}.mp4 --size 0 -5", "-5 x 0 pixels", "give 16 to"),
    "synthetic video: kind": asks(VIDEO, "--output {out}.gif", "{out}.gif", ".mp4"),
    "install: option": asks(INSTALL, "--force", "--force", "unrecognized"),
}

TABLE = CHECKPOINTS | VIDEOS | OTHERS


@pytest.mark.parametrize("name", TABLE)
def test_a_bad_input_ends_in_one_line(
    name: str, good: Good, tiny_catalog: None, run_here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    TABLE[name].assert_told(good, run_here, tmp_path, monkeypatch)


def test_every_tool_is_in_the_table():
    tools = {path.name for folder in ("tools", "datasets") for path in (REPOSITORY / folder).glob("*.py")}
    # The config is what is bad of train_net.py, and console.py runs the others.
    assert tools - {Path(row.tool).name for row in TABLE.values()} == {"console.py", "train_net.py"}
