"""Bad configs: one line that names the key or the file; and YAML of strangers, of which nothing is run."""

from pathlib import Path

import pytest
import torch
from helpers.bad_inputs import Good, assert_refused

from transavs.checkpoint.load import load_model
from transavs.config.defaults import RENAMED_KEYS
from transavs.config.load import load_config, parse_config
from transavs.config.validate import CHOICES, RANGES

BOMB = ["a: &a0 [1, 1]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]
FILES = {
    "UTF-16": "SEED: 1".encode("utf-16"),
    "syntax": b"INPUT: [1,\nSEED: 2",
    "aliases": "\n".join(BOMB).encode(),
    "base is itself": b"_BASE_: bad.yaml",
    "base is a number": b"_BASE_: 3",
    "base is gone": b"_BASE_: bad.yaml.gone",
    "base is a folder": b"_BASE_: ../",
    "base on the net": b"_BASE_: https://localhost/bad.yaml",
}


@pytest.mark.parametrize("kind", FILES)
def test_files_that_are_no_config_are_named(kind: str, tmp_path: Path):
    path = tmp_path / "bad.yaml"
    path.write_bytes(FILES[kind])
    named = {"base is a folder": tmp_path / "..", "base on the net": "https://localhost/bad.yaml"}.get(kind, path)
    assert_refused(lambda: load_config(path), named, tmp_path)


LINES = {
    "INPUT: {SIZE: 3}": "INPUT.SIZE",
    "INPUT: {IMAGE_SIZE: large}": "INPUT.IMAGE_SIZE",
    "SOLVER:": "SOLVER",
    "MODEL: {TIMM: 3}": "MODEL.TIMM",
    "TEST: {SCORE_SIZE: }": "TEST.SCORE_SIZE",
    "TEST: {AUDIO_CONDITIONS: [loud]}": "TEST.AUDIO_CONDITIONS",
    "TEST: {SAVE_PREDICTIONS: [scores]}": "TEST.SAVE_PREDICTIONS",
    "INPUT: {COLOR_JITTER: .nan}": "INPUT.COLOR_JITTER",
}


@pytest.mark.parametrize("line", LINES)
def test_bad_keys_and_values_are_named(line: str, good: Good, tmp_path: Path):
    (tmp_path / "a.yaml").write_text(f"_BASE_: {good.config}\n{line}\n")
    assert_refused(lambda: load_config(tmp_path / "a.yaml"), LINES[line], tmp_path)


OVERRIDES = [
    *((key, str(least - 1)) for key, (least, _) in RANGES.items()),
    *((key, "1" + "0" * 9) for key, (_, most) in RANGES.items() if most < 10**9),
    *((key, "go") for key in CHOICES if not isinstance(CHOICES[key], dict)),
    ("INPUT.SIZE", "3"),
    ("SEED",),
]


@pytest.mark.parametrize("override", OVERRIDES)
def test_bad_overrides_are_named(override: tuple[str, ...], good: Good, tmp_path: Path):
    assert_refused(lambda: load_config(good.config, override), override[0], tmp_path)


@pytest.mark.parametrize("old", RENAMED_KEYS)
def test_keys_of_before_are_refused_with_their_new_names(old: str, good: Good, tmp_path: Path):
    *sections, key = old.split(".")
    value = load_config(good.config)
    for name in RENAMED_KEYS[old].split("."):
        value = value[name]
    text = "".join(f"{section}: {{" for section in sections) + f"{key}: {value}" + "}" * len(sections)
    (tmp_path / "a.yaml").write_text(text)
    torch.save({"model": {}, "config": text}, tmp_path / "a.pth")
    for read in (
        lambda: load_config(tmp_path / "a.yaml"),
        lambda: load_config(good.config, [old, str(value)]),
        lambda: load_model(tmp_path / "a.pth", "cpu"),
    ):
        assert_refused(read, RENAMED_KEYS[old], tmp_path)


CODE = [
    "OUTPUT_DIR: !!python/object/apply:os.mkdir ['{marker}']",
    "OUTPUT_DIR: !!python/object/new:os.mkdir ['{marker}']",
    "? !!python/object/apply:os.mkdir ['{marker}']\n: 1",
    "SEED: !!python/name:os.system",
]


@pytest.mark.parametrize("code", CODE)
def test_yaml_runs_nothing(code: str, good: Good, tmp_path: Path):
    """In a file, in its bases, and in the config that a checkpoint carries."""
    marker = tmp_path / "marker"
    text = code.format(marker=marker)
    (tmp_path / "c.yaml").write_text(text)
    (tmp_path / "b.yaml").write_text("_BASE_: c.yaml\n")
    (tmp_path / "a.yaml").write_text("_BASE_: [b.yaml]\n")
    saved = torch.load(good.weights, weights_only=True)
    torch.save(saved | {"config": text}, tmp_path / "a.pth")
    for name in "abc":
        assert_refused(lambda name=name: load_config(tmp_path / f"{name}.yaml"), tmp_path / "c.yaml", tmp_path)
    assert_refused(lambda: parse_config(text, "a checkpoint"), "a checkpoint", tmp_path)
    assert_refused(lambda: load_model(tmp_path / "a.pth", "cpu"), tmp_path / "a.pth", tmp_path)


def test_a_config_in_python_is_not_run(tmp_path: Path):
    """detectron2's lazy configs are programs."""
    (tmp_path / "config.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'marker')!r})\nmodel = {{}}\n")
    (tmp_path / "a.yaml").write_text("_BASE_: config.py\n")
    for name in ("config.py", "a.yaml"):
        assert_refused(lambda name=name: load_config(tmp_path / name), tmp_path / "config.py", tmp_path)


def test_overrides_run_nothing(good: Good, tmp_path: Path):
    code = f"__import__('os').mkdir({str(tmp_path / 'marker')!r})"
    assert code == load_config(good.config, ["OUTPUT_DIR", code]).OUTPUT_DIR
    assert_refused(lambda: load_config(good.config, ["SEED", code]), "SEED", tmp_path)


def test_the_config_in_a_checkpoint_fetches_nothing(good: Good, tmp_path: Path):
    saved = torch.load(good.weights, weights_only=True)
    text = saved["config"].replace("WEIGHTS: ''", "WEIGHTS: /etc/passwd")
    changed = text.replace("CLIP_CACHE: ''", f"CLIP_CACHE: {tmp_path}/cache")
    assert saved["config"] != text != changed
    torch.save(saved | {"config": changed}, tmp_path / "a.pth")
    load_model(tmp_path / "a.pth", "cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]
