"""What an evaluator keeps of each clip, put together over ranks."""

from typing import Any, Generic, TypeVar

from detectron2.utils import comm

from transavs.utils.errors import AVSInputError

Kept = TypeVar("Kept")
Entry = tuple[int, tuple[str, ...], Kept]  # place in the data set, files of the ground truth, what is kept


class ClipStore(Generic[Kept]):
    """Values of clips by ``video_id``; a clip that several ranks have seen counts once, and equal ids are refused."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry[Kept]] = {}

    def add(self, clip: dict[str, Any], value: Kept) -> None:
        """Keep the value of a clip.

        Args:
            clip: with its ``video_id``, and to tell it from another of that id ``index``, its place in the data set, or
                ``mask_file_names``.
            value: to keep.

        Raises:
            AVSInputError: another clip has the same id.
        """
        name, files = clip["video_id"], tuple(clip.get("mask_file_names", ()))
        if name in self._entries and not files and "index" not in clip:
            raise AVSInputError(f"the clip {name!r} was given twice: give each clip a video_id of its own")
        self._put(self._entries, name, (clip.get("index", 0), files, value))

    def gather(self) -> dict[str, Kept] | None:
        """The values of all ranks in the order of the data set, or of their ids where it is not known.

        Returns:
            on the main process; None on others.

        Raises:
            AVSInputError: two ranks have seen different clips of one id.
        """
        parts = comm.gather(self._entries)
        if not comm.is_main_process():
            return None
        merged: dict[str, Entry[Kept]] = {}
        for part in parts:
            for name, entry in part.items():
                self._put(merged, name, entry)
        return {name: merged[name][2] for name in sorted(merged, key=lambda name: (merged[name][0], name))}

    @staticmethod
    def _put(entries: dict[str, Entry[Kept]], name: str, entry: Entry[Kept]) -> None:
        if name in entries and entries[name][:2] != entry[:2]:
            raise AVSInputError(f"two clips have the video_id {name!r}: give each clip of a data set its own")
        entries[name] = entry
