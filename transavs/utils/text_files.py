"""Text files that users write with editors and spreadsheets: csv tables, JSON, YAML."""

import codecs
import csv
import io
from pathlib import Path

from transavs.utils.errors import AVSInputError, one_line

DELIMITERS = (",", ";", "\t")


def read_text(path: str | Path) -> str:
    """Read a text in UTF-8, or in UTF-16 as Notepad and Excel can write it; a byte order mark is no part of it.

    Raises:
        AVSInputError: the file cannot be read, or holds no such text.
    """
    try:
        content = Path(path).read_bytes()
        is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise AVSInputError(f"{path} cannot be read as text in UTF-8 ({one_line(error)}): save it in UTF-8") from error


def read_csv(path: str | Path) -> tuple[list[str], dict[int, dict[str, str]]]:
    """Read a csv with a header, separated by commas, or by semicolons or tabs as some spreadsheets write it.

    Names of columns become lower case, spaces around names and values are removed, rows without a value left out.

    Returns:
        names of the columns; and by the number of its line each row, values by column, "" where the row is too short.

    Raises:
        AVSInputError: the file is no such text, or several of its columns have the same name.
    """
    lines = list(io.StringIO(read_text(path), newline=""))
    header = next(filter(str.strip, lines), "")
    reader = csv.reader(lines, delimiter=max(DELIMITERS, key=header.count))
    try:
        numbered = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise AVSInputError(f"{path} line {reader.line_num} cannot be read as csv ({error}): correct it") from error
    rows = {line: row for line, row in numbered if any(row)}
    columns = [name.lower() for name in rows.pop(min(rows))] if rows else []
    if twice := sorted({name for name in columns if name and columns.count(name) > 1}):
        raise AVSInputError(f"{path} has several columns {', '.join(twice)}: leave one of each")
    blank = dict.fromkeys(columns, "")
    return columns, {line: blank | dict(zip(columns, row, strict=False)) for line, row in rows.items()}
