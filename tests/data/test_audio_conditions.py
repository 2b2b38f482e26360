"""Audio that is not the clip's own, in testing and in training."""

from pathlib import Path

import pytest
import torch

from transavs import AVSInputError
from transavs.data import AVSDatasetMapper
from transavs.data.audio import VGGishLogMel
from transavs.data.audio_conditions import NEGATIVE_AUDIO, NegativeAudio, apply_audio_condition
from transavs.data.avsbench import load_avsbench
from transavs.evaluation.results import combined_scores

KINDS = sorted(NEGATIVE_AUDIO)


@pytest.fixture(params=["s4", "ms3", "avss"])
def records(request: pytest.FixtureRequest, tiny_datasets: Path) -> list[dict]:
    root = tiny_datasets / "synthetic"
    return load_avsbench(root / "AVSBench_semantic" if request.param == "avss" else root, request.param, "train")


def test_conditions_replace_the_audio_and_nothing_else():
    records = [{"video_id": str(i), "audio_file": f"{i}.wav", "log_mel_file": f"{i}.pkl"} for i in range(7)]
    assert apply_audio_condition(records, "true") == records
    shuffled = apply_audio_condition(records, "shuffled")
    assert [record["video_id"] for record in shuffled] == [record["video_id"] for record in records]
    assert sorted(record["audio_file"] for record in shuffled) == sorted(record["audio_file"] for record in records)
    assert all(old["audio_file"] != new["audio_file"] for old, new in zip(records, shuffled, strict=True))
    assert all(record["audio_file"][0] == record["log_mel_file"][0] for record in shuffled)
    with pytest.raises(AVSInputError, match=r"AUDIO_CONDITIONS holds 'loud': choose from true"):
        apply_audio_condition(records, "loud")
    with pytest.raises(AVSInputError, match="two clips or more"):
        apply_audio_condition(records[:1], "shuffled")


def test_silence_and_noise_go_through_the_front_end():
    records = [{"video_id": i, "audio_file": str(i), "log_mel_file": "x.pkl"} for i in range(4)]
    assert {r["audio_file"] for r in apply_audio_condition(records, "silence")} == {None}
    assert torch.allclose(VGGishLogMel().load(None, None, 5), torch.tensor(0.01).log())
    noise = apply_audio_condition(records, "noise")
    assert noise == apply_audio_condition(records, "noise")
    examples = [VGGishLogMel().load(r["audio_file"], r["log_mel_file"], 5, r["noise_seed"]) for r in noise]
    assert {tuple(e.shape) for e in examples} == {(5, 1, 96, 64)}
    assert torch.equal(examples[0], VGGishLogMel().noise(noise[0]["noise_seed"], 5))
    # White: every band is filled alike, up to the width of its filter, at a level of its own.
    levels = torch.stack([e.exp().mean((0, 1, 2)) for e in examples])
    assert (levels[:, 32:].amax(1) < 4 * levels[:, 32:].amin(1)).all()
    assert levels.mean(1).unique().numel() == 4


def test_offscreen_sounds_are_of_nothing_in_view(records: list[dict]):
    lone = {"video_id": "lone", "audio_file": "lone", "sounds": ["whale"], "in_view": ["whale"]}
    records = [*records, lone]  # in a tiny tree all clips may share a class
    by_audio = {record["audio_file"]: record for record in records}
    replaced = apply_audio_condition(records, "offscreen")
    for record in replaced:
        donor = by_audio[record["audio_file"]]
        assert donor["sounds"]
        assert not set(donor["sounds"]) & set(record["in_view"])


def test_offscreen_finds_the_one_clip_that_fits():
    records = [
        {"video_id": str(i), "audio_file": str(i), "sounds": ["dog"], "in_view": ["dog", "cat"]} for i in range(200)
    ]
    records.append({"video_id": "bell", "audio_file": "bell", "sounds": ["bell"], "in_view": ["bell"]})
    replaced = apply_audio_condition(records, "offscreen")
    assert {record["audio_file"] for record in replaced[:-1]} == {"bell"}
    records.pop()
    with pytest.raises(AVSInputError, match=r"clip 0 has no 'offscreen' audio among 200 clips: .*column 'sounds'"):
        apply_audio_condition(records, "offscreen")
    with pytest.raises(AVSInputError, match="no 'offscreen' audio"):
        apply_audio_condition([{"video_id": "a", "audio_file": "a"}] * 3, "offscreen")


def test_the_csv_tells_what_sounds_and_what_is_in_view(records: list[dict]):
    for record in records:
        assert record["sounds"]
        assert set(record["sounds"]) <= set(record["in_view"])
        assert 2 <= len(record["in_view"]) <= 3
        if "Single-source" in record["audio_file"]:
            assert record["sounds"] == [record["category"]]


def test_training_clips_with_negative_audio_have_an_empty_target(tiny_cfg, ms3_records: list[dict]):
    for record in ms3_records:
        record["in_view"] = [record["video_id"]]
        record["sounds"] = [record["video_id"]]
    torch.manual_seed(0)
    never, always, half = (
        AVSDatasetMapper(tiny_cfg, is_train=True, negative_audio=NegativeAudio(ms3_records, KINDS, share))
        for share in (0.0, 1.0, 0.5)
    )
    plain = never(ms3_records[0])
    assert plain["masks"].any()
    sounds = []
    for _ in range(12):
        clip = always(ms3_records[0])
        assert not clip["masks"].any()
        assert not clip["objects"].any()
        sounds.append(clip["log_mel"])
    assert all(not torch.equal(sound, plain["log_mel"]) for sound in sounds)
    silent = [sound.std().item() < 1e-4 for sound in sounds]
    assert 0 < sum(silent) < len(silent)
    emptied = sum(not half(ms3_records[0])["masks"].any() for _ in range(40))
    assert 8 < emptied < 32
    with pytest.raises(AVSInputError, match=r"INPUT.NEGATIVE_AUDIO is \['loud'\]: choose from silence"):
        NegativeAudio(ms3_records, ["loud"], 0.5)


def test_combined_scores_weigh_true_against_negative_audio():
    values = {"J": 80.0, "F": 90.0, "FPR": 2.0, "J_silence": 10.0, "F_silence": 20.0, "FPR_silence": 1.0}
    values |= {"J_noise": 30.0, "F_noise": 20.0, "FPR_noise": 3.0, "J_shuffled": 50.0, "F_shuffled": 1.0}
    found = combined_scores(values)
    assert found == pytest.approx({"G_J": 80.0, "G_F": 2 * 90 * 80 / 170, "G_FPR": 2.0})
    assert combined_scores({"J": 1.0, "F": 1.0, "J_shuffled": 1.0}) == {}
