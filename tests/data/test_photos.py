"""Clips of photographs: exact masks, no halos, each split to itself, and whatever a table or a package can lack."""

import csv
import hashlib
import io
import tarfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
from helpers.repository import REPOSITORY
from PIL import Image

from transavs import AVSInputError
from transavs.data.avsbench import load_avsbench
from transavs.data.synthetic.album import (
    BLOCK,
    LEVEL,
    load_album,
    read_cutout,
    read_recording,
    read_table,
    without_pauses,
)
from transavs.data.synthetic.dataset import write_clips
from transavs.data.synthetic.debian import fetch_shared_files
from transavs.data.synthetic.photos import PhotoScenery
from transavs.data.synthetic.scenes import render_clip
from transavs.data.synthetic.video import write_synthetic_video
from transavs.media.images import read_mask
from transavs.media.video_reader import Video

# Class, or thing that never sounds: its color, and the frequency in Hz of the first and of the last part of its sound.
RED, GREEN, BLUE, GRAY, WHITE = (230, 20, 20), (20, 230, 20), (20, 20, 230), (110, 110, 110), (255, 255, 255)
SOUNDS = {"ruby": (400, 500), "leaf": (1300, 1600), "lake": (3500, 4300)}
COLORS = {"ruby": RED, "leaf": GREEN, "lake": BLUE}
TABLE = """role,class,size,split,package,file,recording
source,ruby,,,p,ruby.png,ruby.ogg
source,leaf,1.2,,p,leaf.png,leaf.ogg
source,lake,1,train,p,lake.png,lake.ogg
source,lake,1,test,p,other.png,
mute,,0.6,,p,stone.png,
background,,,train,p,train.png,
background,,,test,p,test.png,
"""


def cut_out(path: Path, color: tuple[int, int, int], rim: tuple[int, int, int] = WHITE) -> None:
    """A disc with a soft rim of another color, as what was behind a photographed object leaves it."""
    y, x = np.mgrid[:48, :64]
    distance = np.hypot(x - 32, y - 24)
    alpha = np.clip(22 - distance, 0, 1)
    colors = np.where((alpha == 1)[..., None], color, rim)
    Image.fromarray(np.dstack([colors, 255 * alpha]).astype(np.uint8)).save(path)


def tone(frequency: float, seconds: float, sample_rate: int = 22050) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * sample_rate)) / sample_rate)


@pytest.fixture(scope="module")
def stamps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photographs, and the table of them."""
    folder = tmp_path_factory.mktemp("stamps")
    for name, color in COLORS.items():
        cut_out(folder / f"{name}.png", color)
        first, last = SOUNDS[name]
        wave = np.concatenate([tone(first, 2.1), tone(last, 0.9)])
        soundfile.write(folder / f"{name}.ogg", wave, 22050)
        # A voice that describes the picture, as the real package has: nobody may take it for its sound.
        soundfile.write(folder / f"{name}_desc.ogg", tone(7000, 3), 22050)
    cut_out(folder / "other.png", (20, 230, 230))
    cut_out(folder / "stone.png", (230, 20, 230))
    Image.new("RGB", (90, 60), GRAY).save(folder / "train.png")
    Image.new("RGB", (60, 90), (60, 60, 60)).save(folder / "test.png")
    (folder / "table.csv").write_text(TABLE)
    return folder


@pytest.fixture
def album(stamps: Path) -> partial:
    return partial(load_album, stamps / "table.csv", stamps)


def digest(root: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(root.rglob("*.*")):
        total.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return total.hexdigest()


def loudest(wave: np.ndarray, frequencies: tuple[int, ...]) -> np.ndarray:
    """The amplitude at each frequency, give or take the 5 percent that recordings are played faster or slower."""
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) / len(wave)
    found = np.fft.rfftfreq(len(wave), 1 / 16000)
    return np.array([spectrum[(found > 0.93 * f) & (found < 1.07 * f)].max() for f in frequencies])


def test_the_same_arguments_give_the_same_bytes(album: partial, tmp_path: Path):
    clips = {"train": 2, "test": 1}
    for name, seed, workers in (("a", 5, 1), ("b", 5, 2), ("c", 6, 1)):
        write_clips(
            tmp_path / name, ["s4", "ms3", "avss"], clips, 32, album, source="photos", seed=seed, workers=workers
        )
    digests = [digest(tmp_path / name) for name in "abc"]
    assert digests[0] == digests[1] != digests[2]


def test_masks_and_sounds_agree_second_by_second(album: partial, tmp_path: Path):
    write_clips(tmp_path, ["avss"], {"train": 9}, 64, album, source="photos")
    names = sorted(SOUNDS)
    tones = tuple(SOUNDS[name][0] for name in names)
    quiet, loud = [], []
    for record in load_avsbench(tmp_path / "photos/AVSBench_semantic", "avss", "train"):
        wave, _ = soundfile.read(record["audio_file"])
        for second, path in zip(record["labeled_frames"], record["mask_file_names"], strict=True):
            mask = read_mask(path, "class_ids")
            middle = wave[second * 16000 + 1000 : (second + 1) * 16000 - 1000]
            for number, level in enumerate(loudest(middle, tones), start=1):
                (loud if (mask == number).any() else quiet).append(level)
        assert set(record["sounds"]) <= set(record["in_view"]) <= set(names)
    assert len(loud) > 20
    assert min(loud) > 3 * max(quiet)


def test_masks_are_the_objects_to_a_pixel_and_have_no_halo(album: partial):
    world, rng = album("train"), np.random.default_rng(0)
    for _ in range(8):
        kinds = world.draw_kinds(rng)
        images, visible = render_clip(world.draw_scene(kinds, 5, 96, rng), 5, rng)
        assert (visible.sum(0) <= 1).all()
        assert images[~visible.any(0)].min(-1).max() < 170, "the white rim of the photographs shows"
        for name, shown in zip(kinds, visible, strict=True):
            assert shown.any((1, 2)).all()
            channel = np.argmax(COLORS[name])
            inside = np.stack([cv2.erode(mask.astype(np.uint8), np.ones((3, 3))) for mask in shown]) > 0
            assert (images[inside].argmax(-1) == channel).mean() > 0.99
        # Beside the objects there is gray alone, and what never sounds.
        outside = np.stack([cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))) for mask in visible.any(0)]) == 0
        pixels = images[outside].astype(int)
        gray, mute = np.ptp(pixels, axis=-1) < 60, pixels[:, 1] < pixels[:, [0, 2]].min(-1) - 40
        assert (gray | mute).mean() > 0.97


def test_a_split_has_photographs_backgrounds_and_seconds_to_itself(album: partial):
    train, val, test = (album(split) for split in ("train", "val", "test"))
    color = {name: world.subjects["lake"].cutouts[0].colors[0][24, 32].tolist() for name, world in
             (("train", train), ("val", val), ("test", test))}  # fmt: skip
    assert color["train"] == list(BLUE)
    assert color["val"] == color["test"] == [20, 230, 230]
    assert [len(world.subjects["ruby"].cutouts) for world in (train, test)] == [1, 1]
    assert [round(255 * float(world.backgrounds[0].mean())) for world in (train, val, test)] == [110, 60, 60]
    rng = np.random.default_rng(1)
    for name, (first, last) in SOUNDS.items():
        for world, own in ((train, 0), (test, 1)):
            wave = world.subjects[name].timbre(rng, 16000, 16000)
            levels = loudest(wave, (first, last, 7000))
            assert levels[own] > 5 * max(levels[1 - own], levels[2]), name


def test_short_recordings_are_for_all_splits(tmp_path: Path):
    soundfile.write(tmp_path / "a.ogg", tone(440, 1.0), 22050)
    train, test = (read_recording(tmp_path / "a.ogg", split) for split in ("train", "test"))
    assert (train == test).all()
    assert np.sqrt((train**2).mean()) == pytest.approx(LEVEL, rel=0.01)


def test_pauses_are_left_out():
    rng = np.random.default_rng(2)
    sound = rng.standard_normal(40 * BLOCK)
    sound[10 * BLOCK : 25 * BLOCK] *= 0.001
    found = without_pauses(sound)
    assert len(found) == 25 * BLOCK
    assert np.abs(found[BLOCK : 9 * BLOCK] - sound[BLOCK : 9 * BLOCK]).max() == 0
    assert np.abs(found[10 * BLOCK - 2 : 10 * BLOCK + 2]).max() < 0.1  # no click where it was cut
    assert len(without_pauses(np.zeros(100))) == 0


def test_without_backgrounds_they_are_made_up(stamps: Path, tmp_path: Path):
    (tmp_path / "table.csv").write_text(TABLE.replace("train.png", "gone.png").replace("test.png", "gone.png"))
    world, rng = load_album(tmp_path / "table.csv", stamps, "train"), np.random.default_rng(3)
    assert not world.backgrounds
    image = world.draw_scene(world.draw_kinds(rng), 1, 64, rng).image(0, rng)
    assert image.std() > 10


def test_sizes_stay_within_the_scenery(album: partial):
    world, rng = album("train"), np.random.default_rng(4)
    assert isinstance(world.scenery, PhotoScenery)
    least, most = world.scenery.size
    bodies = [body for _ in range(20) for body in world.draw_scene(world.draw_kinds(rng), 5, 32, rng).bodies]
    assert {body.cutout.size for body in bodies} == {0.6, 1.0, 1.2}
    for body in bodies:
        assert least * body.cutout.size <= body.size <= most * body.cutout.size


def test_a_video_of_photographs(album: partial, tmp_path: Path):
    shots = write_synthetic_video(
        tmp_path / "a.mp4", seconds=7, frame_rate=2, size=(64, 64), world=album("test"), seed=1
    )
    assert len(shots) == 2
    assert shots[0].truth(0, (64, 64)).shape == (64, 64)
    assert len(list(Video(tmp_path / "a.mp4").frames())) == 14


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_table_that_a_spreadsheet_has_saved(tmp_path: Path, encoding: str):
    (tmp_path / "plain.csv").write_text(TABLE)
    (tmp_path / "saved.csv").write_text(TABLE.replace(",", ";").replace("test", "Test"), encoding=encoding)
    assert read_table(tmp_path / "saved.csv") == [
        replace(entry, file=entry.file.replace("test", "Test")) for entry in read_table(tmp_path / "plain.csv")
    ]


BAD_TABLES = {
    "role,class\nsource,a\n": "line 2",
    TABLE.replace("source,ruby", "sauce,ruby"): "line 2",
    TABLE.replace("ruby,,", "ruby,0,"): "line 2",
    TABLE.replace("leaf,1.2", "le_af,1.2"): "line 3",
    TABLE.replace("1,test", "1,val"): "line 5",
    TABLE.replace("mute,,", "mute,stone,"): "line 6",
    "\n".join(TABLE.splitlines()[:2]): "two classes",
    "\0": "table.csv",
}


@pytest.mark.parametrize("text", BAD_TABLES)
def test_a_bad_table_is_named(text: str, tmp_path: Path):
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(AVSInputError, match=BAD_TABLES[text]) as error:
        read_table(tmp_path / "table.csv")
    assert "table.csv" in str(error.value)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("ruby.png", "gone.png", "gone.png does not exist"),
        ("ruby.ogg", "gone.ogg", "gone.ogg does not exist"),
        ("lake.ogg", "", "'lake' has no recording"),
        ("1,train,p,lake", "1,test,p,lake", "'lake' has no photograph"),
        ("ruby.png", "train.png", "train.png is not cut out"),
        ("ruby.png", "ruby.ogg", "ruby.ogg cannot be read as a photograph"),
        ("ruby.ogg", "ruby.png", "ruby.png cannot be read as audio"),
    ],
)
def test_what_a_table_lacks_is_named(stamps: Path, tmp_path: Path, before: str, after: str, told: str):
    (tmp_path / "table.csv").write_text(TABLE.replace(before, after))
    with pytest.raises(AVSInputError, match=told):
        load_album(tmp_path / "table.csv", stamps, "train")


def test_a_silent_recording_is_named(tmp_path: Path):
    soundfile.write(tmp_path / "a.ogg", np.zeros(22050), 22050)
    with pytest.raises(AVSInputError, match=r"a\.ogg is silent"):
        read_recording(tmp_path / "a.ogg", "train")


def test_a_photograph_is_cut_to_its_object(stamps: Path):
    cutout = read_cutout(stamps / "ruby.png", 0.7)
    assert cutout.size == 0.7
    assert cutout.shape == pytest.approx((44, 44), abs=1)
    assert (cutout.colors[0] == RED).all(), "also where it is transparent"


@pytest.fixture
def debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system whose apt-get and dpkg-deb know one package; each call of theirs leaves a line in "calls"."""
    system = tmp_path / "system"
    system.mkdir()
    with tarfile.open(system / "files.tar", "w") as archive:
        for name in ("./usr/share/a/b.png", "./usr/share/a/c.png", "./usr/share/doc/good/copyright", "../evil"):
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"data"))
        link = tarfile.TarInfo("./usr/share/a/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    apt = (
        f'echo apt "$@" >> {system}/calls\n[ "$2" = good ] || {{ echo "E: no $2" >&2; exit 100; }}\ntouch good_1.deb\n'
    )
    for tool, script in (("apt-get", apt), ("dpkg-deb", f"exec /bin/cat {system}/files.tar\n")):
        (system / tool).write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}")
        (system / tool).chmod(0o755)
    monkeypatch.setenv("PATH", str(system))
    return system


def test_a_package_is_fetched_once_and_of_it_what_is_asked_for(debian: Path, tmp_path: Path):
    for _ in range(2):
        fetch_shared_files("good", ["a/b.png"], tmp_path / "out")
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == {"a/b.png", "doc/good/copyright"}
    assert (debian / "calls").read_text() == "apt download good\n"
    fetch_shared_files("good", ["a/link.png", "../evil", "../../evil"], tmp_path / "out")
    assert not (tmp_path / "out/a/link.png").exists()
    assert not (tmp_path / "evil").exists()


def test_what_keeps_a_package_away_is_told_in_a_line(debian: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(AVSInputError, match=r"cannot download bad \(E: no bad\)"):
        fetch_shared_files("bad", ["a"], tmp_path / "out")
    (debian / "files.tar").write_bytes(b"broken" * 200)
    with pytest.raises(AVSInputError, match=r"good_1\.deb cannot be unpacked"):
        fetch_shared_files("good", ["a"], tmp_path / "out")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AVSInputError, match=r"^good is .* no apt-get and no dpkg-deb .* --stamps$"):
        fetch_shared_files("good", ["a"], tmp_path / "out")


def test_the_table_that_comes_along_is_the_only_place_that_names_classes():
    path = REPOSITORY / "datasets/photos.csv"
    entries = read_table(path)
    classes = {entry.name for entry in entries} - {""}
    assert len(classes) == 24
    assert {entry.split for entry in entries if entry.role == "background"} == {"train", "test"}
    assert not [entry for entry in entries if "_desc" in entry.recording]
    with open(path, newline="") as file:
        assert not [row for row in csv.DictReader(file) if None in row or None in row.values()]
    for folder in ("configs", "transavs"):
        for source in (REPOSITORY / folder).rglob("photos*/*" if folder == "configs" else "synthetic/[ap]*.py"):
            assert not classes & set(source.read_text().replace('"', " ").split()), source
