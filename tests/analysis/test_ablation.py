"""The ablation tool: real runs, resuming, and the table."""

import csv
import json
from pathlib import Path

import pytest
from helpers.repository import REPOSITORY, TINY_MODEL, run_tool
from PIL import Image

from transavs import AVSInputError
from transavs.analysis.ablation import collect, draw_runs, execute, plan, tabulate_runs, write_tables
from transavs.config.load import load_config

CPU = REPOSITORY / "configs/ablations/cpu"


def finish(folder: Path, **values: float) -> None:
    """What a finished run leaves in its folder."""
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(values))
    (folder / "finished").touch()


def test_table_has_means_and_spreads_by_row_and_test_set(tmp_path: Path):
    """Rows of S4 and MS3 configs that differ in their subset alone fall together, as in the paper's Table 3."""
    names = ("s4_n100_increasing", "ms3_n100_increasing", "ms3_n500_increasing")
    configs = [REPOSITORY / f"configs/ablations/{name}.yaml" for name in names]
    runs = plan(configs, [1, 2], tmp_path, [])
    assert [run.seed for run in runs] == [1, 1, 1, 2, 2, 2]
    finish(tmp_path / "s4_n100_increasing/seed1", J=80.0, F=90.0)
    finish(tmp_path / "s4_n100_increasing/seed2", J=82.0, F=90.0)
    finish(tmp_path / "ms3_n100_increasing/seed1", J=50.0, F=60.0)
    values = collect(runs, ["J", "F"])
    header, rows = tabulate_runs(runs, values)
    assert header == ["run", "seeds", *(f"avsbench_{s}_test {m}" for s in ("s4", "ms3") for m in ("J", "F"))]
    assert rows == [
        ["n100_increasing", "2", "81.0 ± 1.4", "90.0 ± 0.0", "50.0", "60.0"],
        ["n500_increasing", "0", "-", "-", "-", "-"],
    ]
    keys = ("MODEL.TRANSAVS.NUM_OBJECT_QUERIES", "MODEL.TRANSAVS.AQDL_THRESHOLD")
    header, rows = tabulate_runs(runs, values, keys)
    assert header[:4] == ["run", "NUM_OBJECT_QUERIES", "AQDL_THRESHOLD", "seeds"]
    assert rows[1][:4] == ["n500_increasing", "500", "[0.55, 0.65]", "0"]
    with pytest.raises(AVSInputError, match=r"MODEL\.NOTHING is no key"):
        tabulate_runs(runs, values, ["MODEL.NOTHING"])
    header, rows = tabulate_runs(runs, values)
    text = write_tables(header, rows, tmp_path)
    assert (tmp_path / "table.txt").read_text() == text + "\n"
    with open(tmp_path / "table.csv", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [header, *rows]
    assert (tmp_path / "table.md").read_text().count("|\n") == 4
    with pytest.raises(AVSInputError, match=r"results\.json has no mIoU: choose metrics from J, F"):
        collect(runs, ["mIoU"])
    draw_runs(values, "J", tmp_path)
    with Image.open(tmp_path / "table.png") as figure:
        assert figure.width > 600
        assert len(figure.convert("RGB").getcolors(2**20)) > 20


def test_every_config_is_checked_before_the_first_run(tmp_path: Path):
    with pytest.raises(AVSInputError, match="does not exist"):
        plan([CPU / "ms3_base.yaml", CPU / "ms3_nothing.yaml"], [1], tmp_path, [])
    with pytest.raises(AVSInputError, match=r"MODEL\.NO_KEY"):
        plan([CPU / "ms3_base.yaml"], [1], tmp_path, ["MODEL.NO_KEY", "1"])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_another_config_is_refused(tmp_path: Path):
    """Its results would stand in the table beside settings that it was not trained with."""
    config = CPU / "ms3_base.yaml"
    (run,) = plan([config], [7], tmp_path, [])
    run.output.mkdir(parents=True)
    cfg = load_config(config, ["SEED", "7", "OUTPUT_DIR", "elsewhere", "MODEL.DEVICE", "cuda"])
    (run.output / "config.yaml").write_text(cfg.dump())
    assert plan([config], [7], tmp_path, []) == [run]
    with pytest.raises(AVSInputError, match=r"ms3_base/seed7 holds .*\(SOLVER\.BASE_LR: .*, now 0\.5\): give another"):
        plan([config], [8, 7], tmp_path, ["SOLVER.BASE_LR", "0.5"])


# As a training run that is killed after an evaluation on its way, and going on comes to other results.
KILLED_ONCE = """\
import os, signal, sys
folder = sys.argv[-1]
stopped = os.path.exists(f"{folder}/results.json")
with open(f"{folder}/results.json", "w") as file:
    file.write('{"J": 60.0}' if stopped else '{"J": 20.0}')
if not stopped:
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_that_was_killed_after_an_evaluation_has_not_finished(tmp_path: Path):
    train_net = tmp_path / "train_net.py"
    train_net.write_text(KILLED_ONCE)
    runs = plan([CPU / "ms3_base.yaml"], [1], tmp_path / "runs", [])
    with pytest.raises(AVSInputError, match=r"ms3_base\.yaml with seed 1 failed"):
        execute(runs, train_net, jobs=1)
    assert runs[0].results.exists()
    assert collect(runs, ["J"]) == {}
    execute(runs, train_net, jobs=1)
    (found,) = collect(runs, ["J"]).values()
    assert found == [60.0]
    train_net.unlink()
    execute(runs, train_net, jobs=1)  # finished, so it is not run

    runs[0].results.unlink()  # to have it done again
    train_net.write_text(KILLED_ONCE)
    with pytest.raises(AVSInputError, match="failed"):
        execute(runs, train_net, jobs=1)
    assert collect(runs, ["J"]) == {}


@pytest.mark.slow
def test_stopped_where_it_was_it_goes_on(tiny_datasets: Path, tmp_path: Path):
    arguments = ["tools/run_ablations.py", "--configs", CPU / "ms3_base.yaml", CPU / "ms3_decoder_1.yaml"]
    arguments += ["--seeds", 1, "--jobs", 2, "--output", tmp_path, "--", *TINY_MODEL, "SOLVER.MAX_ITER", 1]
    environment = {"DETECTRON2_DATASETS": str(tiny_datasets)}
    done = run_tool(*arguments, **environment)
    assert done.returncode == 0, done.stderr
    results = {run: tmp_path / run / "seed1/results.json" for run in ("ms3_base", "ms3_decoder_1")}
    first = {run: path.stat().st_mtime_ns for run, path in results.items()}
    assert "base" in done.stdout
    assert "decoder_1" in done.stdout

    results["ms3_decoder_1"].unlink()
    assert run_tool(*arguments, **environment).returncode == 0
    assert results["ms3_base"].stat().st_mtime_ns == first["ms3_base"]
    assert results["ms3_decoder_1"].stat().st_mtime_ns > first["ms3_decoder_1"]


@pytest.mark.slow
def test_a_run_that_fails_is_named_and_the_others_are_kept(tmp_path: Path):
    arguments = ["tools/run_ablations.py", "--configs", CPU / "ms3_base.yaml", CPU / "ms3_decoder_1.yaml", "--seeds", 1]
    finish(tmp_path / "ms3_decoder_1/seed1", J=1.5, F=2.5)
    done = run_tool(*arguments, "--output", tmp_path, DETECTRON2_DATASETS=str(tmp_path / "nowhere"))
    assert done.returncode == 2
    error = done.stderr.splitlines()[-1]
    assert "ms3_base.yaml with seed 1 failed" in error
    assert "ms3_meta_data.csv does not exist: run datasets/prepare_synthetic.py" in error
    assert "1.5" in done.stdout
