"""An evaluation that was stopped goes on where it was, and ends with the same numbers."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from transavs.engine import AVSTrainer
from transavs.evaluation.journal import Journal, evaluation_key


class Stopping(nn.Module):
    """A model that counts its clips and fails at one of them."""

    def __init__(self, model: nn.Module, fails_at: int | None):
        super().__init__()
        self.model, self.fails_at, self.seen = model, fails_at, []

    def forward(self, clips: list[dict]) -> list[dict]:
        if len(self.seen) == self.fails_at:
            raise KeyboardInterrupt
        self.seen += [clip["video_id"] for clip in clips]
        return self.model(clips)


@pytest.fixture
def evaluation(tiny_cfg, tiny_catalog: None, tmp_path: Path):
    """A config and a model whose predictions are neither empty nor full."""
    tiny_cfg.OUTPUT_DIR = str(tmp_path)
    tiny_cfg.TEST.AUDIO_CONDITIONS = ["true", "silence"]
    tiny_cfg.TEST.SAVE_PREDICTIONS = ["rle"]
    tiny_cfg.TEST.FIGURE_CLIPS = 0
    return tiny_cfg, build_model(tiny_cfg)


def run(evaluation: tuple, fails_at: int | None, resumable: bool = True) -> tuple[dict, list[str]]:
    cfg, model = evaluation
    stopping = Stopping(model, fails_at)
    try:
        return AVSTrainer.test(cfg, stopping, resumable=resumable), stopping.seen
    except KeyboardInterrupt:
        return {}, stopping.seen


def test_what_was_found_before_a_stop_is_kept(evaluation: tuple, tmp_path: Path):
    expected, all_clips = run(evaluation, None, resumable=False)
    codes = (tmp_path / "inference/synthetic_ms3_test/predictions.json").read_text()
    assert len(all_clips) == 6  # three clips, two conditions
    first, second = run(evaluation, 2)[1], run(evaluation, 2)[1]
    results, third = run(evaluation, None)
    assert results == expected
    # Of a condition that is complete, the last clip is looked at again.
    assert [*first, *second, *third[1:]] == all_clips
    assert (tmp_path / "inference/synthetic_ms3_test/predictions.json").read_text() == codes
    assert list(tmp_path.rglob("*.jsonl")) == []
    assert run(evaluation, None)[1] == all_clips  # complete: the next one starts anew


def test_other_weights_or_settings_start_anew(evaluation: tuple):
    cfg, model = evaluation
    clips = run(evaluation, None)[1]
    run(evaluation, 2)
    with torch.no_grad():
        model.criterion.projection.bias[0] += 1
    assert run(evaluation, None)[1] == clips
    run(evaluation, 2)
    cfg.TEST.SCORE_SIZE = 20
    assert run(evaluation, None)[1] == clips
    run(evaluation, 2)
    cfg.TEST.PRECISION = "bfloat16"
    assert run(evaluation, None)[1] == clips


def test_the_key_does_not_depend_on_folders(evaluation: tuple):
    cfg, model = evaluation
    key = evaluation_key(cfg, model)
    cfg.OUTPUT_DIR = "elsewhere"
    assert evaluation_key(cfg, model) == key
    cfg.INPUT.IMAGE_SIZE = 40
    assert evaluation_key(cfg, model) != key


def test_a_line_that_was_being_written_is_not_read(tmp_path: Path):
    journal = Journal(tmp_path, "key")
    journal.add("a", [1.5, float("nan")])
    with open(journal.path, "a", encoding="utf-8") as file:
        file.write(json.dumps(["b", 2])[:-2])
    again = Journal(tmp_path, "key")
    assert list(again.found) == ["a"]
    assert again.found["a"][0] == 1.5
    again.add("b", 2)
    assert set(Journal(tmp_path, "key").found) == {"a", "b"}
    assert Journal(tmp_path, "other").found == {}
