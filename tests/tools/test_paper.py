"""The numbers that docs/paper.md tells are those of the configs."""

import re
from ast import literal_eval
from functools import reduce

from helpers.repository import REPOSITORY

from transavs.config.load import load_config

ROW = re.compile(r"^\| .* \| `([A-Z_.0-9]+)` \| (.+?) \| .* \|$", re.MULTILINE)


def test_the_table_of_numbers_is_the_config():
    cfg = load_config(REPOSITORY / "configs/s4_r101.yaml")
    rows = ROW.findall((REPOSITORY / "docs/paper.md").read_text(encoding="utf-8"))
    told = {key: literal_eval(value) if value[0] in "-[0123456789" else value for key, value in rows}
    found = {key: reduce(getattr, key.split("."), cfg) for key in told}
    assert told == found
    # Every number of the query decoder and of the criterion is told; QUERY_BLOCKS is EncoderTransAVS's.
    words = {"TRANSFORMER_DECODER_NAME", "QUERY_MODE", "QUERY_TARGET", "DEEP_SUPERVISION"}
    untold = set(cfg.MODEL.TRANSAVS) - {key.rpartition(".")[-1] for key in told} - words
    assert untold <= {"AUDIO_CONTEXT", "LOSS_STRIDE", "QUERY_BLOCKS"}


def test_sentences_with_numbers_are_those_of_their_configs():
    text = (REPOSITORY / "docs/paper.md").read_text(encoding="utf-8")
    deep = load_config(REPOSITORY / "configs/s4_r50_deep.yaml").MODEL.TRANSAVS
    assert f"N_1 = {deep.ENC_LAYERS} and N_2 = {deep.DEC_LAYERS}" in text
    assert f"train {load_config(REPOSITORY / 'configs/ms3_r101.yaml').SOLVER.MAX_ITER} iterations in place of" in text
    base = load_config(REPOSITORY / "configs/s4_r101.yaml").MODEL.TRANSAVS
    assert f"N_1 is {base.ENC_LAYERS} and N_2 is {base.DEC_LAYERS}" in text
