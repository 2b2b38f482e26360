"""Text and tables as editors and spreadsheets save them: read right, or refused in one line."""

from pathlib import Path

import pytest

from transavs import AVSInputError
from transavs.utils.text_files import read_csv, read_text

ROWS = [{"name": "a,b;c", "split": "train"}, {"name": "käse", "split": ""}]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_as_any_spreadsheet_saves_it(tmp_path: Path, delimiter: str, end: str, encoding: str):
    lines = ["Name, SPLIT ,", '"a,b;c", train ,', "", ",,", "  ", "käse"]
    text = end.join(line if '"' in line else line.replace(",", delimiter) for line in lines)
    text = text.replace('", train ,', f'"{delimiter} train {delimiter}')
    (tmp_path / "table.csv").write_bytes(text.encode(encoding))
    columns, rows = read_csv(tmp_path / "table.csv")
    assert columns[:2] == ["name", "split"]
    assert [{name: row[name] for name in ("name", "split")} for row in rows.values()] == ROWS
    assert list(rows) == [2, 6]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"name,split\nk\xe4se,train\n", "cannot be read as text in UTF-8"),
        (b"name,split,Name\na,train,b\n", "has several columns name"),
        (b"\0" + b"a" * 200_000, "line 1 cannot be read as csv"),
        (b"\xff\xfea", "cannot be read as text in UTF-8"),
    ],
)
def test_what_is_no_table_is_told_in_one_line(tmp_path: Path, content: bytes, told: str):
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(AVSInputError, match=told) as error:
        read_csv(tmp_path / "table.csv")
    assert str(tmp_path / "table.csv") in str(error.value)
    assert "\n" not in str(error.value)


def test_an_empty_table_has_no_rows(tmp_path: Path):
    for content in (b"", b"\n\n", b"\xef\xbb\xbf"):
        (tmp_path / "table.csv").write_bytes(content)
        assert read_csv(tmp_path / "table.csv") == ([], {})
        assert read_text(tmp_path / "table.csv") == content.decode("utf-8-sig")
    with pytest.raises(AVSInputError, match="nowhere cannot be read as text"):
        read_text(tmp_path / "nowhere")
