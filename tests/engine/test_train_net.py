"""tools/train_net.py as a user runs it, in processes of its own."""

import json
import math
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from helpers.repository import REPOSITORY, TINY_MODEL, read_metrics

from transavs import AVSInputError
from transavs.checkpoint.versions import versions
from transavs.config.load import load_config
from transavs.inference.predictor import AVSPredictor

TOOL = "tools/train_net.py"
QUICKSTART = ("--config-file", "configs/quickstart.yaml")


@pytest.fixture(scope="module")
def trained(run_train_net, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUTPUT_DIR of a run of four iterations with a checkpoint after two."""
    folder = tmp_path_factory.mktemp("trained")
    options = (*TINY_MODEL, "SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 2, "TEST.FIGURE_CLIPS", 2)
    done = run_train_net(*QUICKSTART, *options, "OUTPUT_DIR", folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_training_writes_weights_results_figure_and_logs(trained: Path):
    results = json.loads((trained / "results.json").read_text())
    assert {"J", "F", "FPR", "J_shuffled", "F_shuffled", "J_silence", "F_silence"} <= set(results)
    assert all(0 <= value <= 100 for value in results.values())
    for name in ("model_0000001.pth", "model_final.pth", "figure.png", "config.yaml", "log.txt"):
        assert (trained / name).stat().st_size > 0
    assert list(trained.glob("events.out.tfevents.*"))
    logged = {name: value for row in read_metrics(trained) for name, value in row.items()}
    assert logged["sem_seg/J"] == pytest.approx(results["J"])
    assert {
        "total_loss",
        "loss_ce",
        "loss_mask",
        "loss_dice",
        "loss_aqdl",
        "loss_aqml",
        "aqdl_threshold",
        "aqml_threshold",
    } <= set(logged)


def test_eval_only_gives_the_number_that_training_ended_with(trained: Path, run_train_net, tmp_path: Path):
    weights = ("MODEL.WEIGHTS", trained / "model_final.pth")
    done = run_train_net(*QUICKSTART, "--eval-only", *TINY_MODEL, *weights, "OUTPUT_DIR", tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads((trained / "results.json").read_text())
    assert (tmp_path / "figure.png").exists()


def test_eval_only_takes_the_config_that_the_checkpoint_carries(trained: Path, run_train_net, tmp_path: Path):
    weights = ("MODEL.WEIGHTS", trained / "model_final.pth", "OUTPUT_DIR", tmp_path)
    done = run_train_net("--eval-only", *weights, "TEST.FIGURE_CLIPS", 0)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads((trained / "results.json").read_text())


def test_eval_only_tells_every_key_of_model_and_input_that_differs(
    trained: Path, run_here, tiny_catalog, tmp_path: Path
):
    weights = (
        "MODEL.WEIGHTS",
        trained / "model_final.pth",
        "OUTPUT_DIR",
        tmp_path,
        "TEST.AUDIO_CONDITIONS",
        "['true']",
    )
    options = (*QUICKSTART, *TINY_MODEL, "TEST.FIGURE_CLIPS", 0, "INPUT.IMAGE_SIZE", 64, "MODEL.TRANSAVS.NHEADS", 2)
    done = run_here(TOOL, "--eval-only", *options, *weights)
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if "was trained with another config" in line)
    assert line.endswith(": INPUT.IMAGE_SIZE: 32, now 64; MODEL.TRANSAVS.NHEADS: 4, now 2")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (("MODEL.TRANSAVS.NUM_OBJECT_QUERIES", 40), "query_decoder.query_content"),
        (("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 7), "query_decoder.classifier.bias"),
        (("MODEL.TRANSAVS.DEC_LAYERS", 5), "query_decoder.decoder.3.attention.in_proj_bias"),
    ],
)
def test_a_model_that_would_be_partly_random_is_not_scored(
    trained: Path, run_here, tiny_catalog, tmp_path: Path, change: tuple, name: str
):
    weights = trained / "model_final.pth"
    run = ("--eval-only", *QUICKSTART, *TINY_MODEL, *change, "MODEL.WEIGHTS", weights, "OUTPUT_DIR", tmp_path)
    error = errors_of(run_here(TOOL, *run))
    assert "model_final.pth does not fit the model: it lacks " in error
    assert f"such as {name}: give the config" in error
    assert not (tmp_path / "results.json").exists()
    config = tmp_path / "other.yaml"
    cfg = load_config(REPOSITORY / "configs/quickstart.yaml", [*TINY_MODEL, *map(str, change)])
    config.write_text(cfg.dump())
    with pytest.raises(AVSInputError, match="does not fit the model: it lacks"):
        AVSPredictor.from_checkpoint(weights, device="cpu", config_file=config)


def test_parameters_that_are_missing_are_an_error_but_for_those_of_the_losses(trained: Path, tmp_path: Path):
    found = torch.load(trained / "model_final.pth", weights_only=True)
    for part, fits in (("criterion.", True), ("query_decoder.classifier.", False), ("backbone.stem.", False)):
        kept = {name: value for name, value in found["model"].items() if not name.startswith(part)}
        torch.save(found | {"model": kept}, tmp_path / "part.pth")
        with nullcontext() if fits else pytest.raises(AVSInputError, match=rf"it lacks .*, such as {part}"):
            AVSPredictor.from_checkpoint(tmp_path / "part.pth", device="cpu")


def test_an_audio_backbone_may_come_from_a_file_of_its_own(trained: Path, run_here, tiny_catalog, tmp_path: Path):
    """As VGGish does for published TPAVI; what a checkpoint holds is not fetched."""
    found, prefix = torch.load(trained / "model_final.pth", weights_only=True), "audio_backbone."
    audio = {n.removeprefix(prefix): value for n, value in found["model"].items() if n.startswith(prefix)}
    rest = {name: value for name, value in found["model"].items() if not name.startswith(prefix)}
    torch.save(audio, tmp_path / "audio.pth")
    torch.save({"model": rest}, tmp_path / "rest.pth")
    run = ("--eval-only", *QUICKSTART, *TINY_MODEL, "TEST.FIGURE_CLIPS", 0, "OUTPUT_DIR", tmp_path, "MODEL.WEIGHTS")
    key = "MODEL.AUDIO_BACKBONE.WEIGHTS"
    assert run_here(TOOL, *run, tmp_path / "rest.pth", key, tmp_path / "audio.pth").returncode == 0
    expected = json.loads((trained / "results.json").read_text())
    assert json.loads((tmp_path / "results.json").read_text()) == expected
    assert "such as audio_backbone." in errors_of(run_here(TOOL, *run, tmp_path / "rest.pth"))
    whole = (trained / "model_final.pth", key, "https://nowhere.invalid/vggish.pth")
    assert run_here(TOOL, *run, *whole).returncode == 0


def test_resume_goes_on_with_iteration_optimizer_and_data_order(trained: Path, run_train_net, tmp_path: Path):
    """The resumed run ends with the weights of the uninterrupted one, flips, noise and dropout included."""
    options = (*TINY_MODEL, "SOLVER.CHECKPOINT_PERIOD", 2, "SOLVER.MAX_ITER", 4, "TEST.AUDIO_CONDITIONS", "['true']")
    options += ("MODEL.TRANSAVS.DROPOUT", 0.1, "INPUT.NEGATIVE_AUDIO_PROB", 0.5, "TEST.FIGURE_CLIPS", 0)
    options += ("INPUT.NEGATIVE_AUDIO", "['silence', 'noise']")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run_train_net(*QUICKSTART, *options, "OUTPUT_DIR", whole).returncode == 0
    # Stopped after the checkpoint of the second iteration.
    parts.mkdir()
    shutil.copy(whole / "model_0000001.pth", parts)
    (parts / "last_checkpoint").write_text("model_0000001.pth")
    done = run_train_net(*QUICKSTART, "--resume", *options, "OUTPUT_DIR", parts)
    assert done.returncode == 0, done.stderr
    assert "Starting training from iteration 2" in done.stdout
    states = [torch.load(folder / "model_final.pth", weights_only=True) for folder in (whole, parts)]
    assert all(state["trainer"]["_trainer"]["optimizer"]["state"][0]["step"] == 4 for state in states)
    learnt = [(state["model"], state["trainer"]["_trainer"]["optimizer"]["state"]) for state in states]
    torch.testing.assert_close(*learnt, rtol=0, atol=1e-6)
    assert states[0]["trainer"]["hooks"] == states[1]["trainer"]["hooks"]
    assert states[0]["versions"].keys() == versions().keys()
    assert f"torch {versions()['torch']}" in done.stdout


def test_fine_tuning_starts_afresh_from_the_weights_of_another_subset(trained: Path, run_train_net, tmp_path: Path):
    """As S4 -> MS3 is done: the model's weights alone are taken, not iteration and optimizer."""
    data = ("DATASETS.TRAIN", "('synthetic_s4_train',)", "DATASETS.TEST", "('synthetic_s4_test',)")
    options = (*TINY_MODEL, *data, "SOLVER.MAX_ITER", 1, "SOLVER.BASE_LR", 0.0, "TEST.FIGURE_CLIPS", 0)
    weights = ("MODEL.WEIGHTS", trained / "model_final.pth", "OUTPUT_DIR", tmp_path)
    done = run_train_net(*QUICKSTART, *options, *weights)
    assert done.returncode == 0, done.stderr
    assert "Starting training from iteration 0" in done.stdout
    before, after = (torch.load(f / "model_final.pth", weights_only=True) for f in (trained, tmp_path))
    assert after["trainer"]["_trainer"]["optimizer"]["state"][0]["step"] == 1
    for name in ("query_decoder.query_mixer.weight", "backbone.res5.0.conv1.weight", "criterion.projection.weight"):
        assert torch.equal(after["model"][name], before["model"][name])


def test_avss_trains_and_reports_means_over_classes(run_train_net, tmp_path: Path):
    """Clips of five and ten frames in one batch, 71 classes of which the data has seven."""
    data = ("DATASETS.TRAIN", "('synthetic_avss_train',)", "DATASETS.TEST", "('synthetic_avss_test',)")
    options = (*TINY_MODEL, *data, "INPUT.NUM_FRAMES", 10, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 71)
    options += ("SOLVER.IMS_PER_BATCH", 3, "SOLVER.MAX_ITER", 2, "TEST.SCORE_SIZE", 24, "TEST.FIGURE_CLIPS", 1)
    done = run_train_net(*QUICKSTART, *options, "OUTPUT_DIR", tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    metrics = ("J", "F", "mIoU", "mF", "mIoU_fg", "mF_fg", "mIoU_set")
    assert {f"{metric}{suffix}" for metric in metrics for suffix in ("", "_shuffled", "_silence")} <= set(results)
    assert all(0 <= value <= 100 for value in results.values())
    assert "| mIoU |" in (tmp_path / "results.md").read_text().replace("  ", "")
    assert (tmp_path / "figure.png").exists()


def test_resuming_a_finished_run_only_evaluates(trained: Path, run_train_net, tmp_path: Path):
    finished = shutil.copytree(trained, tmp_path / "finished")
    (finished / "results.json").unlink()
    options = (*TINY_MODEL, "SOLVER.MAX_ITER", 4, "TEST.FIGURE_CLIPS", 0)
    assert run_train_net(*QUICKSTART, "--resume", *options, "OUTPUT_DIR", finished).returncode == 0
    assert json.loads((finished / "results.json").read_text()) == json.loads((trained / "results.json").read_text())


def test_results_that_miss_the_expected_ones_end_in_status_1(trained: Path, run_train_net, tmp_path: Path):
    """After training and with --eval-only; the log has what was expected and what was found."""
    score = json.loads((trained / "results.json").read_text())["J"]
    finished = shutil.copytree(trained, tmp_path / "finished")
    options = (*TINY_MODEL, "SOLVER.MAX_ITER", 4, "TEST.FIGURE_CLIPS", 0, "TEST.AUDIO_CONDITIONS", "['true']")
    options += ("OUTPUT_DIR", finished, "MODEL.WEIGHTS", finished / "model_final.pth", "TEST.EXPECTED_RESULTS")
    done = run_train_net(*QUICKSTART, "--eval-only", *options, f"[['sem_seg', 'J', {score + 1}, 1.5]]")
    assert done.returncode == 0, done.stderr
    assert "Results verification passed" in done.stdout
    done = run_train_net(*QUICKSTART, "--resume", *options, f"[['sem_seg', 'J', {score + 5}, 1.5]]")
    assert done.returncode == 1
    assert f"Expected Results: [['sem_seg', 'J', {score + 5}, 1.5]]" in done.stdout
    assert "Actual Results: " in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["s4_r101", "s4_swinb"])
def test_large_models_train_in_bfloat16(run_train_net, tmp_path: Path, name: str):
    """At their full size, from nothing, on smaller pictures: few CPUs are quick in bfloat16."""
    options = ("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.TIMM.PRETRAINED", False, "OUTPUT_DIR", tmp_path)
    options += ("MODEL.AUDIO_BACKBONE.FREEZE", False, "MODEL.AUDIO_BACKBONE.WEIGHTS", "", "DATALOADER.NUM_WORKERS", 0)
    options += ("SOLVER.AMP.ENABLED", True, "SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 2, "INPUT.IMAGE_SIZE", 64)
    done = run_train_net("--config-file", f"configs/{name}.yaml", *options)
    assert done.returncode == 0, done.stderr
    losses = [value for row in read_metrics(tmp_path) for key, value in row.items() if "loss" in key]
    assert losses
    assert all(map(math.isfinite, losses))
    saved = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert saved["iteration"] == 1
    assert {value.dtype for value in saved["model"].values() if value.is_floating_point()} == {torch.float32}


@pytest.mark.slow
def test_s4_r101_trains_on_avsbenchs_layout(run_train_net, tmp_path: Path):
    """The paper's model at its full size; only the number of iterations and the data are small."""
    options = ("MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", 2, "MODEL.WEIGHTS", "", "OUTPUT_DIR", tmp_path)
    options += ("MODEL.AUDIO_BACKBONE.FREEZE", False, "MODEL.AUDIO_BACKBONE.WEIGHTS", "")
    done = run_train_net("--config-file", "configs/s4_r101.yaml", *options)
    assert done.returncode == 0, done.stderr
    assert 0 <= json.loads((tmp_path / "results.json").read_text())["J"] <= 100


def errors_of(done) -> str:
    """The one line a user is shown."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_settings_that_are_wrong(run_here, tmp_path: Path):
    output = ("OUTPUT_DIR", tmp_path / "out")
    error = errors_of(run_here(TOOL, "--config-file", "configs/none.yaml", *output))
    assert f"'configs/none.yaml' does not exist: name a file of your own or one of those in {REPOSITORY}/c" in error
    error = errors_of(run_here(TOOL, *QUICKSTART, "MODEL.TRANSAVS.QUERIES", 3, *output))
    assert "MODEL.TRANSAVS.QUERIES" in error
    assert "give KEY VALUE pairs" in error
    config = tmp_path / "mine.yaml"
    config.write_text(f"_BASE_: {REPOSITORY}/configs/quickstart.yaml\nSOLVER:\n  LEARNING_RATE: 3\n")
    error = errors_of(run_here(TOOL, "--config-file", config, *output))
    assert "mine.yaml" in error
    assert "SOLVER.LEARNING_RATE" in error


def test_a_config_is_asked_for(run_here):
    assert "--config-file is missing: name a config" in errors_of(run_here(TOOL))
    assert "--config-file is missing: name a config" in errors_of(run_here(TOOL, "--eval-only"))


def test_more_gpus_than_there_are_end_in_one_line(run_here, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    error = errors_of(run_here(TOOL, *QUICKSTART, "--num-gpus", 8))
    assert error.startswith("error: --num-gpus is 8 (expected 2 or fewer, the GPUs that PyTorch sees here)")


def test_a_schedule_of_no_iteration_ends_in_one_line(run_here):
    assert errors_of(run_here(TOOL, *QUICKSTART, "SOLVER.MAX_ITER", 0)) == "error: SOLVER.MAX_ITER is 0: give 1 or more"


@pytest.mark.parametrize("split", ["TEST", "VAL"])
def test_sets_that_are_evaluated_later_are_read_before_training(
    run_here, catalog_of, tiny_datasets, tmp_path, split: str
):
    datasets = shutil.copytree(tiny_datasets, tmp_path / "datasets")
    for wav in (datasets / "synthetic/Multi-sources/ms3_data/audio_wav" / split.lower()).iterdir():
        wav.unlink()
    catalog_of(datasets)
    options = (*TINY_MODEL, "DATASETS.VAL", "('synthetic_ms3_val',)", "OUTPUT_DIR", tmp_path / "out")
    done = run_here(TOOL, *QUICKSTART, *options)
    assert f"{split.lower()}" in errors_of(done)
    assert "Starting training" not in done.stdout


def test_an_audio_condition_that_a_set_does_not_have_is_found_before_training(
    run_here, catalog_of, tiny_datasets, tmp_path
):
    datasets = shutil.copytree(tiny_datasets, tmp_path / "datasets")
    csv = datasets / "synthetic/Multi-sources/ms3_meta_data.csv"
    rows = csv.read_text().splitlines()
    test = [row for row in rows if ",test" in row]
    csv.write_text("\n".join([row for row in rows if row not in test[1:]]) + "\n")
    catalog_of(datasets)
    done = run_here(TOOL, *QUICKSTART, *TINY_MODEL, "OUTPUT_DIR", tmp_path / "out")
    assert "'shuffled', which needs a test split of two clips" in errors_of(done)
    assert "Starting training" not in done.stdout


def test_checkpoints_that_are_wrong(run_train_net, tmp_path: Path):
    """What --eval-only and training share is tested in test_engine."""
    run = (*QUICKSTART, "--eval-only", *TINY_MODEL, "OUTPUT_DIR", tmp_path / "out")
    error = errors_of(run_train_net(*run, "MODEL.WEIGHTS", tmp_path / "gone.pth"))
    assert "gone.pth does not exist" in error
    error = errors_of(run_train_net(*run, "MODEL.WEIGHTS", ""))
    assert "nothing to evaluate: set MODEL.WEIGHTS" in error


def test_data_that_is_missing_or_broken(run_train_net, tiny_datasets: Path, tmp_path: Path):
    run = (*QUICKSTART, *TINY_MODEL, "SOLVER.MAX_ITER", 2, "OUTPUT_DIR", tmp_path / "out")
    error = errors_of(run_train_net(*run, datasets=tmp_path / "nowhere"))
    assert (
        "nowhere/synthetic/Multi-sources/ms3_meta_data.csv does not exist: run datasets/prepare_synthetic.py" in error
    )

    datasets = shutil.copytree(tiny_datasets, tmp_path / "datasets")
    for wav in (datasets / "synthetic/Multi-sources/ms3_data/audio_wav/train").iterdir():
        wav.write_bytes(wav.read_bytes()[:5000])
    # In a worker, whose traceback must not show.
    error = errors_of(run_train_net(*run, "DATALOADER.NUM_WORKERS", 1, datasets=datasets))
    assert ".wav is truncated (5000 of " in error
    assert error.endswith("extract the audio again")
