"""Models shared as folders and through a hub: what comes back is what went in, and strangers' folders run nothing."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from helpers.fake_hub import FakeHub, fake_hub, files_of
from helpers.models import CLASSES, make_backend
from helpers.repository import ENCODER_ONLY, REPOSITORY, TINY_MODEL, run_tool
from helpers.videos import make_video

from transavs import AVSInputError, AVSPredictor, load_config
from transavs.checkpoint.checkpointer import AVSCheckpointer
from transavs.media.audio_file import SAMPLE_RATE
from transavs.modeling.meta_arch import AVSModel

# Meta-architecture -> overrides of the quickstart's config that make it small.
ARCHITECTURES = {
    "TransAVS": ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "4", "MODEL.TRANSAVS.QUERY_CONTENT_STD", "3.0"],
    "TPAVI": ["MODEL.META_ARCHITECTURE", "TPAVI", "MODEL.TPAVI.HEAD_CHANNELS", "[8, 8]"],
    "EncoderTransAVS": ENCODER_ONLY,
}
FILES = ["README.md", "config.yaml", "model.safetensors", "transavs.json"]
RESULTS = {"J": 61.25, "F": 70.5, "FPR": 1.5, "J_silence": 2.0, "F_silence": 3.0, "FPR_silence": 4.0, "J-dog": 60.0}
PREDICT = """
import sys
import numpy as np
from transavs import AVSPredictor

clip = np.load("clip.npz")
for name in sys.argv[1:]:
    found = AVSPredictor.from_pretrained(name, device="cpu").predict(list(clip["frames"]), clip["sound"], 16000)
    np.savez(f"{name}.npz", masks=[frame.mask() for frame in found],
             probabilities=[frame.probabilities.numpy() for frame in found], names=found[0].class_names)
"""


def clip() -> tuple[list[np.ndarray], np.ndarray]:
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (7, 6, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    return list(frames), random.uniform(-0.5, 0.5, 7 * SAMPLE_RATE).astype(np.float32)


def write_checkpoint(folder: Path, architecture: str, *more: str) -> Path:
    """A checkpoint as the trainer writes it, on a machine with folders of its own."""
    overrides = [*TINY_MODEL, *ARCHITECTURES[architecture], *more]
    cfg = load_config(REPOSITORY / "configs/quickstart.yaml", overrides)
    backend = make_backend("quickstart.yaml", overrides)
    cfg.OUTPUT_DIR, cfg.DATALOADER.CLIP_CACHE, cfg.MODEL.WEIGHTS = "/theirs/run", "/theirs/cache", "/theirs/a.pth"
    cfg.DATASETS.TRAIN = (f"named_{architecture}",)
    MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).stuff_classes = list(backend.format.class_names)
    AVSCheckpointer(backend.model, str(folder), cfg).save(architecture)
    return folder / f"{architecture}.pth"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("run"), "TransAVS")


@pytest.fixture(scope="module")
def shared(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that was shared (read only)."""
    folder = tmp_path_factory.mktemp("shared") / "tiny-avs"
    results = folder.with_name("results.json")
    results.write_text(json.dumps(RESULTS))
    AVSPredictor.from_checkpoint(checkpoint, device="cpu").save_pretrained(folder, license="cc-by-4.0", results=results)
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub of this process, whose cache is empty."""
    with fake_hub() as started:
        go_to(started.address, monkeypatch)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
        for name, value in (started.environment | {"FVCORE_CACHE": str(tmp_path / "url_cache")}).items():
            monkeypatch.setenv(name, value)
        yield started


def go_to(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT does, which is read when huggingface_hub is imported."""
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def run_fresh(code: str, folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    kept = {name: value for name, value in os.environ.items() if name != "DETECTRON2_DATASETS"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=kept | {"PYTHONPATH": str(REPOSITORY)} | environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_every_meta_architecture_is_tried():
    ours = {
        name
        for name, kind in META_ARCH_REGISTRY
        if issubclass(kind, AVSModel) and kind.__module__.startswith("transavs.")
    }
    assert set(ARCHITECTURES) == ours


def test_a_fresh_process_finds_the_same_masks(tmp_path: Path):
    frames, sound = clip()
    np.savez(tmp_path / "clip.npz", frames=frames, sound=sound)
    expected = {}
    for name in ARCHITECTURES:
        path = write_checkpoint(tmp_path, name)
        predictor = AVSPredictor.from_checkpoint(path, device="cpu")
        predictor.save_pretrained(tmp_path / name, license="mit")
        path.unlink()
        expected[name] = predictor.predict(frames, sound, SAMPLE_RATE)
    done = run_fresh(PREDICT, tmp_path, *ARCHITECTURES)
    assert done.returncode == 0, done.stderr
    for name, predicted in expected.items():
        found, masks = np.load(tmp_path / f"{name}.npz"), np.stack([frame.mask() for frame in predicted])
        np.testing.assert_array_equal(found["masks"], masks)
        probabilities = np.stack([frame.probabilities.numpy() for frame in predicted])
        assert probabilities.std((0, 2, 3)).max() > 1e-3
        np.testing.assert_allclose(found["probabilities"], probabilities, atol=1e-6)
        assert tuple(found["names"]) == tuple(CLASSES[: probabilities.shape[1]])


def test_what_a_folder_holds(shared: Path, checkpoint: Path):
    assert sorted(path.name for path in shared.iterdir()) == FILES
    texts = "".join((shared / name).read_text() for name in FILES if name != "model.safetensors")
    assert "/theirs" not in texts
    assert str(shared.parent) not in texts
    stored = torch.load(checkpoint, weights_only=True)
    weights = safetensors.torch.load_file(shared / "model.safetensors")
    assert weights.keys() == stored["model"].keys()
    assert all(torch.equal(weights[name], value) for name, value in stored["model"].items())
    about = json.loads((shared / "transavs.json").read_text())
    assert about == {"class_names": list(CLASSES), "versions": stored["versions"], "metrics": RESULTS}
    kept, trained = (yaml.safe_load(text) for text in ((shared / "config.yaml").read_text(), stored["config"]))
    for values in (kept, trained):  # which are of the machine
        del values["OUTPUT_DIR"], values["DATALOADER"]["CLIP_CACHE"]
        del values["MODEL"]["WEIGHTS"], values["MODEL"]["DEVICE"]
    assert kept == trained


def test_the_card_names_license_and_metrics_and_its_example_runs(shared: Path, tmp_path: Path):
    card = (shared / "README.md").read_text()
    _, front_matter, body = card.split("---\n", 2)
    assert yaml.safe_load(front_matter)["license"] == "cc-by-4.0"
    assert "`cc-by-4.0`" in body
    assert all(f"{value:.1f}" in body for value in (61.25, 70.5, 2.0, 4.0))
    (code,) = re.findall(r"```python\n(.*?)```", body, re.DOTALL)
    (tmp_path / shared.name).symlink_to(shared)
    make_video(tmp_path / "video.mp4", seconds=2)
    done = run_fresh(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert [int(float(line.split()[0])) for line in done.stdout.splitlines()] == [0, 1]


def test_a_shared_model_can_be_shared_again_and_carries_on(shared: Path, tmp_path: Path):
    predictor = AVSPredictor.from_pretrained(shared, device="cpu", smoothing=2.0)
    assert predictor.smoothing == 2.0
    predictor.save_pretrained(tmp_path / "again", license="cc-by-4.0")
    again = files_of(tmp_path / "again")
    for name in ("config.yaml", "model.safetensors"):
        assert again[name] == (shared / name).read_bytes(), name
    # In place too, where it reads what it writes.
    AVSPredictor.from_pretrained(tmp_path / "again").save_pretrained(tmp_path / "again", license="mit")
    assert files_of(tmp_path / "again")["model.safetensors"] == again["model.safetensors"]


def test_to_the_hub_and_back(hub: FakeHub, shared: Path, tmp_path: Path):
    frames, sound = clip()
    predictor = AVSPredictor.from_pretrained(shared, device="cpu")
    assert predictor.push_to_hub("me/tiny", license="mit").startswith(f"{hub.address}/me/tiny/commit/")
    files = hub.repositories["me/tiny"]["main"]
    assert sorted(files) == FILES
    assert b'from_pretrained("me/tiny")' in files["README.md"]
    files["secret.pth"] = b"nobody asks for it"
    found = AVSPredictor.from_pretrained("me/tiny", device="cpu").predict(frames, sound, SAMPLE_RATE)
    for one, other in zip(found, predictor.predict(frames, sound, SAMPLE_RATE), strict=True):
        np.testing.assert_array_equal(one.mask(), other.mask())
    assert not [request for request in hub.requests if "secret" in request or "README" in request.split()[-1]]


def test_a_revision_is_another_model(hub: FakeHub, shared: Path):
    other = files_of(shared)
    weights = {name: value + 1 for name, value in safetensors.torch.load(other["model.safetensors"]).items()}
    hub.repositories["me/tiny"] = {
        "main": files_of(shared),
        "v2": other | {"model.safetensors": safetensors.torch.save(weights)},
    }
    main, second = (AVSPredictor.from_pretrained("me/tiny", revision=revision) for revision in (None, "v2"))
    by_address = AVSPredictor.from_checkpoint("hf://me/tiny@v2")
    for predictor, revision in ((main, "main"), (second, "v2"), (by_address, "v2")):
        loaded, _ = predictor.backend.checkpoint
        assert loaded.read_bytes() == hub.repositories["me/tiny"][revision]["model.safetensors"]


def test_without_a_network_what_was_fetched_is_used(hub: FakeHub, shared: Path, monkeypatch: pytest.MonkeyPatch):
    hub.repositories["me/tiny"] = {"main": files_of(shared)}
    AVSPredictor.from_pretrained("me/tiny")
    go_to("http://127.0.0.1:9", monkeypatch)  # where nobody answers
    AVSPredictor.from_pretrained("me/tiny")
    with pytest.raises(AVSInputError, match=r"^me/other cannot be fetched from the hub \(.*\): check the network"):
        AVSPredictor.from_pretrained("me/other")
    with pytest.raises(AVSInputError, match=r"^me/other cannot be written to the hub \(.*\): check the network"):
        AVSPredictor.from_pretrained(shared).push_to_hub("me/other", license="mit")


def test_weights_of_the_hub_and_of_addresses_are_loaded_for_training(
    hub: FakeHub, shared: Path, checkpoint: Path, tiny_cfg, tmp_path: Path
):
    files = files_of(shared) | {"plain.pth": checkpoint.read_bytes()}
    hub.repositories["me/tiny"] = {"main": files}
    expected = torch.load(checkpoint, weights_only=True)["model"]
    places = ["hf://me/tiny", "hf://me/tiny@main", f"{hub.address}/me/tiny/resolve/main/plain.pth", str(shared)]
    for place in places:
        model = make_backend("quickstart.yaml", [*TINY_MODEL, *ARCHITECTURES["TransAVS"]]).model
        for parameter in model.parameters():
            torch.nn.init.zeros_(parameter)
        AVSCheckpointer(model).load_all(str(place))
        assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items()), place
    frames, sound = clip()
    by_address = AVSPredictor.from_checkpoint(places[2], device="cpu").predict(frames, sound, SAMPLE_RATE)
    expected_frames = AVSPredictor.from_checkpoint(checkpoint, device="cpu").predict(frames, sound, SAMPLE_RATE)
    for one, other in zip(by_address, expected_frames, strict=True):
        np.testing.assert_array_equal(one.mask(), other.mask())


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("me/gone", "me/gone is no folder here and no repository of the hub that you may read: "),
        ("me/tiny@gone", "me/tiny has no revision 'gone' on the hub: name another"),
        ("me/bare", "me/bare holds no model.safetensors: name what AVSPredictor.save_pretrained has written"),
        ("gone", "there is no folder gone: name one that is, or a repository of the hub as owner/name"),
        ("hf://gone", "there is no folder hf://gone: "),
        ("{empty}", "{empty} holds no model.safetensors: "),
    ],
)
def test_what_is_not_there_is_told_in_one_line(hub: FakeHub, tmp_path: Path, name: str, told: str):
    hub.repositories |= {"me/tiny": {"main": {}}, "me/bare": {"main": {"README.md": b"none"}}}
    (tmp_path / "empty").mkdir()
    name, told = (text.format(empty=tmp_path / "empty") for text in (name, told))
    with pytest.raises(AVSInputError) as caught:
        AVSPredictor.from_pretrained(name)
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)


def test_an_address_without_a_file_is_told(hub: FakeHub):
    place = f"{hub.address}/me/gone/resolve/main/a.pth"
    with pytest.raises(
        AVSInputError, match=rf"^{place} cannot be fetched \(Not Found\): check the address, or name a file$"
    ):
        AVSPredictor.from_checkpoint(place)


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("transavs.json", "[1, 2]", "transavs.json cannot be read"),
        ("transavs.json", "[" * 100_000, "transavs.json cannot be read"),
        ("transavs.json", '{"metrics": {}' + " " * 2**20 + "}", "transavs.json cannot be read .*more than"),
        ("config.yaml", "#" * (2**20 + 1), "transavs.json cannot be read .config.yaml takes more than"),
        ("transavs.json", '{"class_names": [1, 2, 3, 4]}', "class names in .* are no list of names"),
        ("config.yaml", "A: !!python/object/apply:os.mkdir [ran]", "config in .* cannot be read as YAML"),
        ("config.yaml", "A: [&a [1], &b [*a, *a], &c [*b, *b]" + ", [*c, *c]" * 9999 + "]", "more than 10000 entries"),
        ("config.yaml", "_BASE_: /etc/passwd", "config in "),
        ("model.safetensors", "words", "model.safetensors cannot be read as a checkpoint"),
    ],
)
def test_a_stranger_s_folder_runs_nothing(
    shared: Path, file: str, content: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    for name, good in files_of(shared).items():
        Path(name).write_bytes(good)
    Path(file).write_text(content)
    with pytest.raises(AVSInputError, match=told) as caught:
        AVSPredictor.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir()) == FILES


def test_what_cannot_be_shared_is_told(checkpoint: Path, shared: Path, tmp_path: Path):
    predictor = AVSPredictor.from_checkpoint(checkpoint, device="cpu")
    with pytest.raises(TypeError, match="license"):
        predictor.save_pretrained(tmp_path / "out")
    with pytest.raises(AVSInputError, match="the license of the weights is empty: name it"):
        predictor.save_pretrained(tmp_path / "out", license=" ")
    (tmp_path / "results.json").write_text("[1]")
    for results in ("results.json", "gone.json"):
        with pytest.raises(AVSInputError, match=rf"{results} holds no results of a test"):
            predictor.save_pretrained(tmp_path / "out", license="mit", results=tmp_path / results)
    with pytest.raises(AVSInputError, match=r"results\.json.* cannot be written"):
        predictor.save_pretrained(tmp_path / "results.json", license="mit")
    assert not (tmp_path / "out").exists()
    made = AVSPredictor(make_backend("quickstart.yaml", [*TINY_MODEL]))
    with pytest.raises(AVSInputError, match="only a model of a checkpoint can be shared"):
        made.save_pretrained(tmp_path / "out", license="mit")
    # Weights of an encoder alone, with the config given.
    stored = torch.load(checkpoint, weights_only=True)
    part = {name: value for name, value in stored["model"].items() if not name.startswith("audio_backbone.")}
    torch.save(stored | {"model": part}, tmp_path / "part.pth")
    with pytest.raises(AVSInputError, match=r"part\.pth does not fit .* lacks \d+ of .* such as audio_backbone\."):
        AVSPredictor.from_checkpoint(tmp_path / "part.pth").save_pretrained(tmp_path / "out", license="mit")


def test_the_demo_takes_a_folder_and_a_name(hub: FakeHub, shared: Path, run_here, tmp_path: Path):
    hub.repositories["me/tiny"] = {"main": files_of(shared)}
    video = make_video(tmp_path / "a.mp4", seconds=1)
    for number, weights in enumerate((shared, "hf://me/tiny")):
        done = run_here("tools/demo.py", "--input", video, "--masks", tmp_path / str(number), "--weights", weights)
        assert done.returncode == 0, done.stderr
    assert files_of(tmp_path / "0") == files_of(tmp_path / "1") != {}


@pytest.mark.slow
def test_training_starts_from_the_hub(shared: Path, tiny_datasets: Path, tmp_path: Path):
    """In a process of its own, by the environment variable that huggingface_hub reads."""
    with fake_hub() as hub:
        hub.repositories["me/tiny"] = {"main": files_of(shared)}
        done = run_tool(
            *("tools/train_net.py", "--config-file", "configs/quickstart.yaml", *TINY_MODEL),
            *("MODEL.TRANSAVS.QUERY_CONTENT_STD", "3.0", "SOLVER.MAX_ITER", "1", "SOLVER.BASE_LR", "0.0"),
            *("OUTPUT_DIR", str(tmp_path), "MODEL.WEIGHTS", "hf://me/tiny"),
            **hub.environment,
            HF_HOME=str(tmp_path / "hub"),
            DETECTRON2_DATASETS=str(tiny_datasets),
        )
    assert done.returncode == 0, done.stderr
    expected = safetensors.torch.load_file(shared / "model.safetensors")
    found = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    name = "query_decoder.mask_projection.weight"
    assert torch.equal(found[name], expected[name])
