"""What tools do with errors: what a user can put right is one line, and nothing else is hidden."""

from pathlib import Path

import pytest
from torch.multiprocessing import spawn

from transavs import AVSInputError
from transavs.utils.command_line import run_tool


def fail(rank: int) -> None:
    raise AVSInputError("a.wav is truncated: extract the audio again")


def fill_a_disk() -> None:
    with open("/dev/full", "w") as file:
        file.write("a")


@pytest.mark.parametrize(
    ("work", "told"),
    [
        (lambda: spawn(fail), "a.wav is truncated: extract the audio again"),
        (fill_a_disk, "the disk is full (of the output): make room, then call this again"),
        (
            lambda: Path("/gone/a.json").write_text(""),
            "/gone/a.json cannot be used (No such file or directory): name another",
        ),
    ],
    ids=["another process", "disk", "file"],
)
def test_what_a_user_can_mend_is_one_line(work, told: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as end:
        run_tool(work)
    assert end.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {told}")


def test_what_is_a_mistake_of_ours_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_tool(lambda: 1 / 0)
