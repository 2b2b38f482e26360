"""The generated data set: layout, determinism, and that only the audio tells which objects sound."""

import hashlib
import itertools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
from PIL import Image

from transavs.data.avsbench import load_avsbench
from transavs.data.synthetic.dataset import DIFFICULTIES, changing_sources, one_source, write_synthetic
from transavs.data.synthetic.scenes import bounce, render_clip
from transavs.data.synthetic.sounds import SLOTS, gate, mix, with_gaps
from transavs.media.images import read_mask

EASY, HARD = DIFFICULTIES["easy"], DIFFICULTIES["hard"]


def digest(root: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(root.rglob("*.*")):
        total.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return total.hexdigest()


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path):
    clips = {"train": 2, "test": 1}
    write_synthetic(tmp_path / "a", ["s4", "ms3", "avss"], clips, size=24, seed=5)
    write_synthetic(tmp_path / "b", ["avss", "ms3", "s4"], clips, size=24, seed=5, workers=2)
    write_synthetic(tmp_path / "c", ["s4", "ms3", "avss"], clips, size=24, seed=6)
    write_synthetic(tmp_path / "d", ["s4", "ms3", "avss"], clips, size=24, seed=5, difficulty="easy")
    digests = [digest(tmp_path / name) for name in "abcd"]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_layout_is_avsbench_objects(tiny_datasets: Path):
    root = tiny_datasets / "synthetic"
    s4, ms3 = root / "Single-source/s4_data", root / "Multi-sources/ms3_data"
    assert (
        (root / "Single-source/s4_meta_data.csv").read_text().startswith("name,start,category,split,sounds,in_view\n")
    )
    assert (root / "Multi-sources/ms3_meta_data.csv").read_text().startswith("video_id,split,sounds,in_view\n")
    video = "ms3_test_0001_0"
    assert {path.name for path in (ms3 / "visual_frames" / video).iterdir()} == {
        f"{video}.mp4_{k}.png" for k in range(1, 6)
    }
    assert {path.name for path in (ms3 / "gt_masks/test" / video).iterdir()} == {
        f"{video}_{k}.png" for k in range(1, 6)
    }
    assert len(list((s4 / "gt_masks/train").glob("*/*/*.png"))) == 4  # the first frame of each clip
    assert len(list((s4 / "gt_masks/val").glob("*/*/*.png"))) == 10
    wave, sample_rate = soundfile.read(ms3 / "audio_wav/test" / f"{video}.wav")
    assert (wave.shape, sample_rate) == ((80000,), 16000)
    for mask in ms3.glob("gt_masks/*/*/*.png"):
        assert set(np.unique(cv2.imread(str(mask)))) <= {0, 255}


def test_layout_is_avsbench_semantics(tiny_datasets: Path):
    root = tiny_datasets / "synthetic/AVSBench_semantic"
    assert (root / "metadata.csv").read_text().startswith("vid,uid,s_min,s_sec,a_obj,split,label,sounds,in_view\n")
    names = list(json.loads((root / "label2idx.json").read_text()))
    assert names == ["background", *sorted(EASY.kinds)]
    seen = set()
    for split in ("train", "val", "test"):
        for record in load_avsbench(root, "avss", split):
            part, video = record["video_id"].split("/")
            frames, labels = (10, 10) if part == "v2" else (5, 1 if (part, split) == ("v1s", "train") else 5)
            folder = root / part / video
            assert {path.name for path in (folder / "frames").iterdir()} == {f"{k}.jpg" for k in range(frames)}
            assert len(list((folder / "labels_rgb").iterdir())) == len(record["mask_file_names"]) == labels
            assert len(soundfile.read(record["audio_file"])[0]) == 16000 * frames
            present = set()
            for path in map(Path, record["mask_file_names"]):
                ids, colors = read_mask(str(path), "class_ids"), Image.open(folder / "labels_rgb" / path.name)
                present |= set(np.unique(ids)) - {0}
                # The palette of VOC as the field has it: class 1 is dark red, class 6 dark cyan.
                assert (np.asarray(colors)[ids == 1] == (128, 0, 0)).all()
                assert (np.asarray(colors)[ids == 6] == (0, 128, 128)).all()
            assert {names[number] for number in present} <= set(record["category"].split("_"))
            seen.add(part)
    assert seen == {"v1s", "v1m", "v2"}


def test_sound_and_mask_agree_second_by_second(tmp_path: Path):
    """A second is near silent exactly where its mask is empty; on the easy set, which has neither noise nor gaps."""
    write_synthetic(tmp_path, ["ms3"], {"test": 12}, size=24, difficulty="easy")
    loudness = {True: [], False: []}
    for split in ("test",):
        for record in load_avsbench(tmp_path / "synthetic", "ms3", split):
            wave, _ = soundfile.read(record["audio_file"])
            for second, path in enumerate(record["mask_file_names"]):
                middle = wave[second * 16000 + 2000 : (second + 1) * 16000 - 2000]
                loudness[bool(cv2.imread(path).any())].append(middle.std())
    assert min(loudness[True]) > 0.02
    assert max(loudness[False], default=0) < 0.01


def test_which_object_sounds_does_not_depend_on_what_is_seen():
    rng = np.random.default_rng(0)
    single = np.array([one_source(3, 5, 0.5, rng) for _ in range(3000)])
    assert (single.sum(1) == 1).all()
    assert (single == single[:, :, :1]).all()
    assert single[:, :, 0].mean(0) == pytest.approx([1 / 3] * 3, abs=0.03)
    several = np.array([changing_sources(3, 5, 0.0, rng) for _ in range(3000)])
    assert np.ptp(several.mean((0, 2))) < 0.02
    assert 0 < (~several.any(1)).mean() < 0.05
    assert (several[:, :, 1:] != several[:, :, :-1]).any((1, 2)).mean() > 0.9
    some_mute = np.array([changing_sources(3, 5, 0.5, rng) for _ in range(3000)])
    assert np.ptp(some_mute.mean((0, 2))) < 0.03
    # Each is mute in half of the clips, but for the one that is chosen where all three are.
    assert some_mute.any(2).mean() == pytest.approx(0.5 + 0.5**3 / 3, abs=0.03)


@pytest.mark.parametrize("difficulty", [EASY, HARD])
def test_objects_stay_visible_and_masks_apart(difficulty):
    rng = np.random.default_rng(1)
    for _ in range(10):
        scene = difficulty.draw_scene(difficulty.draw_kinds(rng), 5, 64, rng)
        images, visible = render_clip(scene, 5, rng)
        assert images.shape == (5, 64, 64, 3)
        assert images.dtype == np.uint8
        assert (visible.sum(0) <= 1).all()
        # The smallest star covers about the square of its radius, some of it may be hidden.
        assert visible.mean((2, 3)).min() > 0.7 * difficulty.scenery.radius[0] ** 2 * difficulty.scenery.min_visible


def test_hard_classes_share_what_easy_ones_have_alone():
    def values(difficulty, name: str) -> list:
        return [getattr(kind.look, name) for kind in difficulty.kinds.values()]

    assert len(HARD.kinds) >= 16
    for name in ("outline", "texture", "hue"):
        assert len(set(values(EASY, name))) == len(EASY.kinds)
        assert all(values(HARD, name).count(value) == 3 for value in values(HARD, name))
    for names in itertools.combinations(("outline", "texture", "hue"), 2):
        pairs = list(zip(*(values(HARD, name) for name in names), strict=True))
        assert len(set(pairs)) == len(pairs)
    families = [kind.timbre.func for kind in HARD.kinds.values()]
    assert all(families.count(family) == 3 for family in families)


def test_positions_bounce_inside_the_image():
    positions = bounce(np.linspace(-3, 3, 601))
    assert positions.min() >= 0.14 - 1e-9
    assert positions.max() <= 0.86 + 1e-9
    assert np.abs(np.diff(positions)).max() <= 0.01 + 1e-9
    assert bounce(np.array(0.3)) == pytest.approx(0.3)


def test_a_source_is_heard_in_its_seconds_only():
    rng = np.random.default_rng(2)
    sounding = np.array([[True, False, True, False, False]])
    for name, kind in EASY.kinds.items():
        wave = mix([kind.timbre], sounding, EASY.soundscape, 16000, rng).reshape(5, 16000)[:, 1000:-1000]
        assert np.abs(wave).max() <= 1, name
        assert wave[[0, 2]].std(1).min() > 20 * wave[[1, 3, 4]].std(1).max(), name
    envelope = gate(sounding[0], 80000, ramp=320)
    assert envelope.shape == (80000,)
    assert envelope.reshape(5, 16000)[:, 1000:-1000].mean(1).tolist() == pytest.approx([1, 0, 1, 0, 0])


def test_pauses_leave_a_source_some_of_each_second_and_come_in_no_other():
    rng = np.random.default_rng(4)
    sounding = rng.random(200) < 0.5
    slots = with_gaps(sounding, 0.5, rng).reshape(200, SLOTS)
    assert not slots[~sounding].any()
    shares = slots[sounding].mean(1)
    assert (shares.min(), shares.max()) == (0.5, 1.0)
    assert shares.mean() == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize("difficulty", [EASY, HARD])
def test_timbres_can_be_told_apart_by_their_mean_spectrum(difficulty):
    rng = np.random.default_rng(3)

    def spectrum(name: str) -> np.ndarray:
        power = np.abs(np.fft.rfft(difficulty.kinds[name].timbre(rng, 16000, 16000))) ** 2
        bands = np.add.reduceat(power, np.geomspace(30, 7000, 24).astype(int))
        return np.log(bands / bands.sum() + 1e-4)

    known = {name: np.mean([spectrum(name) for _ in range(10)], 0) for name in difficulty.kinds}
    for name in difficulty.kinds:
        distances = {other: np.linalg.norm(spectrum(name) - mean) for other, mean in known.items()}
        assert min(distances, key=distances.get) == name
