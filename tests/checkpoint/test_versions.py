"""What a run says that it was made with."""

from importlib import metadata

from transavs.checkpoint.versions import version_changes, versions


def test_versions_are_those_that_are_installed():
    found = versions()
    assert found["detectron2"] == metadata.version("detectron2")
    assert len(found.get("commit", "0" * 12).removesuffix("-dirty")) >= 12


def test_changes_name_what_differs():
    before = versions() | {"torch": "1.0", "gone": "2"}
    assert version_changes(versions()) == []
    assert version_changes(before) == [f"torch: 1.0, now {metadata.version('torch')}", "gone: 2, now unknown"]
