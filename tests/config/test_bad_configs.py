"""Bad configs: one line that names the key or the file and the mend, status 2, nothing written."""

from pathlib import Path

import pytest
from helpers.bad_inputs import Bad, Good, asks, config_with, folder, holds

TRAIN = "tools/train_net.py"


def train(config: str, names: str, mend: str) -> Bad:
    """A config that overrides a good one."""
    return Bad(TRAIN, "--config-file {bad}", names, mend, config_with(config), "bad.yaml")


def yaml(content: bytes | str, names: str, mend: str) -> Bad:
    """A config file of this content."""
    return Bad(TRAIN, "--config-file {bad}", names, mend, holds(content), "bad.yaml")


def setting(key: str, value: str, names: str, mend: str) -> Bad:
    """A KEY VALUE override."""
    return Bad(TRAIN, f"--config-file {{config}} {key} {value}", names, mend)


CONFIGS = {
    "config: none": asks(TRAIN, "--config-file {bad}", "'{bad}' does not exist", "name a file"),
    "config: a folder": asks(TRAIN, "--config-file {bad}", "'{bad}' is a folder", "name a file", folder),
    "config: empty": yaml("", "{bad} holds no KEY: VALUE lines", "name a config"),
    "config: words": yaml("just words", "{bad} holds no KEY: VALUE lines", "name a config"),
    "config: binary": yaml(b"\x89PNG\r\n\x1a\n\xff\x00", "'{bad}' is no text in UTF-8", "name another"),
    "config: UTF-16": yaml("SEED: 1".encode("utf-16"), "'{bad}' is no text in UTF-8", "name another"),
    "config: syntax": yaml("INPUT: [1,\nSEED: 2", "{bad} cannot be read as YAML", "correct the file"),
    "config: a Python tag": yaml("SEED: !!python/name:os.system", "{bad} cannot be read as YAML", "correct the file"),
    "config: aliases": yaml(
        "\n".join(["a: &a0 [1, 1]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]),
        "{bad} holds more than",
        "name another",
    ),
    "config: no such base": yaml("_BASE_: gone.yaml", "gone.yaml' does not exist", "name a file"),
    "config: base is itself": yaml("_BASE_: bad.yaml", "{bad}: its _BASE_ leads back", "name another"),
    "config: base is a number": yaml("_BASE_: 3", "{bad}: its _BASE_", "name the file"),
    "config: base on the net": yaml("_BASE_: https://localhost/a.yaml", "'https://localhost/a.yaml'", "name a file"),
    "config: unknown key": train("INPUT: {SIZE: 3}", "INPUT.SIZE", "correct the file"),
    "config: wrong type": train("INPUT: {IMAGE_SIZE: large}", "INPUT.IMAGE_SIZE", "correct the file"),
    "config: empty section": train("SOLVER:", "SOLVER is None", "give keys"),
    "config: value for a section": train("MODEL: {TIMM: 3}", "MODEL.TIMM is 3", "give keys"),
    "config: no value": train("TEST:\n  SCORE_SIZE:", "TEST.SCORE_SIZE has no value", "give one"),
    "config: image of 0": setting("INPUT.IMAGE_SIZE", "0", "INPUT.IMAGE_SIZE is 0", "give 8 to"),
    "config: negative image": setting("INPUT.IMAGE_SIZE", "-32", "INPUT.IMAGE_SIZE is -32", "give 8 to"),
    "config: giant image": setting("INPUT.IMAGE_SIZE", "1000000", "INPUT.IMAGE_SIZE is 1000000", "give 8 to"),
    "config: channel order": setting("INPUT.FORMAT", "XYZ", "INPUT.FORMAT holds 'XYZ'", "choose from 'RGB'"),
    "config: flip": setting("INPUT.RANDOM_FLIP", "often", "INPUT.RANDOM_FLIP holds 'often'", "choose from 'none'"),
    "config: no classes": setting("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "0", "NUM_CLASSES is 0", "give 2 to"),
    "config: empty batch": setting("SOLVER.IMS_PER_BATCH", "0", "SOLVER.IMS_PER_BATCH is 0", "give 1 or more"),
    "config: negative workers": setting("DATALOADER.NUM_WORKERS", "-1", "NUM_WORKERS is -1", "give 0 or more"),
    "config: negative iterations": setting("SOLVER.MAX_ITER", "-5", "SOLVER.MAX_ITER is -5", "give 0 or more"),
    "config: rate is no number": train("SOLVER: {BASE_LR: .nan}", "SOLVER.BASE_LR is nan", "give 0 or more"),
    "config: endless rate": train("SOLVER: {BASE_LR: .inf}", "SOLVER.BASE_LR is inf", "give 0 or more"),
    "config: word for a broken clip": setting("DATALOADER.ON_BROKEN_CLIP", "go", "ON_BROKEN_CLIP holds 'go'", "choose"),
    "config: word for no number": setting("SOLVER.ON_NON_FINITE", "go", "ON_NON_FINITE holds 'go'", "choose from"),
    "config: word for silence": setting("SOLVER.ON_SILENT_BATCH", "go", "ON_SILENT_BATCH holds 'go'", "choose from"),
    "config: precision": setting("SOLVER.AMP.PRECISION", "half", "AMP.PRECISION holds 'half'", "'bfloat16', 'float16'"),
    "config: tested in": setting("TEST.PRECISION", "half", "TEST.PRECISION holds 'half'", "choose from 'float32'"),
    "config: float16 without a GPU": setting(
        "TEST.PRECISION", "float16", "float16 needs a GPU and the device is 'cpu'", "choose bfloat16"
    ),
    "config: nothing to train on": setting("DATASETS.TRAIN", "()", "DATASETS.TRAIN is empty", "name a data set"),
    "config: scheduler": setting("SOLVER.LR_SCHEDULER_NAME", "Foo", "LR_SCHEDULER_NAME holds 'Foo'", "choose from"),
    "config: never saved": setting("SOLVER.CHECKPOINT_PERIOD", "0", "CHECKPOINT_PERIOD is 0", "give 1 or more"),
    "config: audio": setting("TEST.AUDIO_CONDITIONS", "['loud']", "TEST.AUDIO_CONDITIONS holds 'loud'", "'silence'"),
    "config: predictions": setting("TEST.SAVE_PREDICTIONS", "['gif']", "SAVE_PREDICTIONS holds 'gif'", "'png'"),
    "config: share of audio": setting("INPUT.NEGATIVE_AUDIO_PROB", "1.5", "NEGATIVE_AUDIO_PROB is 1.5", "give 0 to 1"),
    "config: depth": setting("MODEL.RESNETS.DEPTH", "51", "MODEL.RESNETS.DEPTH holds 51", "choose from 18"),
    "config: norm": setting("MODEL.RESNETS.NORM", "Foo", "MODEL.RESNETS.NORM holds 'Foo'", "choose from"),
    "config: scales": setting("INPUT.SCALE_JITTER", "[0.0,2.0]", "INPUT.SCALE_JITTER is [0.0, 2.0]", "give 2 numbers"),
    "config: colors": setting("INPUT.COLOR_JITTER", "1.5", "INPUT.COLOR_JITTER is 1.5", "give 0 to 1"),
    "config: norm of features": setting("MODEL.TIMM.OUT_NORM", "BN", "TIMM.OUT_NORM holds 'BN'", "choose from"),
    "config: mean": setting("MODEL.PIXEL_MEAN", "[1.0,2.0]", "MODEL.PIXEL_MEAN is [1.0, 2.0]", "give 3 numbers"),
    "config: heads": setting(
        "MODEL.TRANSAVS.NHEADS", "7", "MODEL.TRANSAVS.HIDDEN_DIM is 16", "give a multiple of NHEADS"
    ),
    "config: seed": setting("SEED", "-2", "SEED is -2", "give -1 to"),
    "config: data set": setting(
        "DATASETS.TRAIN", "('coco_avs',)", "DATASETS.TRAIN holds 'coco_avs'", "synthetic_ms3_train"
    ),
    "config: data set to validate on": setting(
        "DATASETS.VAL", "('coco_avs',)", "DATASETS.VAL holds 'coco_avs'", "synthetic_ms3_train"
    ),
    "config: architecture": setting("MODEL.META_ARCHITECTURE", "Foo", "META_ARCHITECTURE is 'Foo'", "TransAVS"),
    "config: backbone": setting("MODEL.BACKBONE.NAME", "Foo", "MODEL.BACKBONE.NAME is 'Foo'", "build_timm_backbone"),
    "config: audio backbone": setting("MODEL.AUDIO_BACKBONE.NAME", "Foo", "AUDIO_BACKBONE.NAME is 'Foo'", "VGGish"),
    "config: pixel decoder": setting("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "Foo", "is 'Foo'", "FPNPixelDecoder"),
    "config: odd overrides": asks(TRAIN, "--config-file {config} SEED", "overrides ['SEED']", "give KEY VALUE pairs"),
    "config: override of nothing": setting("INPUT.SIZE", "3", "INPUT.SIZE", "give KEY VALUE pairs"),
    "config: folder for results": asks(
        TRAIN, "--config-file {config} OUTPUT_DIR {bad}", "OUTPUT_DIR is '{bad}'", "name a folder", holds("a file")
    ),
    "config: folder below a file": asks(
        TRAIN, "--config-file {config} OUTPUT_DIR {bad}/out", "{bad} is a file", "name a folder", holds("a file")
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_bad_config_ends_in_one_line(
    name: str, good: Good, run_here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    CONFIGS[name].assert_told(good, run_here, tmp_path, monkeypatch)
