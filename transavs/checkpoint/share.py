"""Models written for others to use: a folder, or a repository of Hugging Face's hub, with a model card.

The folder holds the weights (``model.safetensors``), the config without anything of the machine it was trained on
(``config.yaml``), class names, versions and metrics (``transavs.json``) and the card (``README.md``).
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import safetensors.torch
import yaml
from huggingface_hub import HfApi

from transavs.checkpoint.load import Trained, load_trained
from transavs.config.load import portable_config
from transavs.evaluation.results import results_table
from transavs.utils.atomic_files import atomic_write, write_file
from transavs.utils.command_line import check_outputs
from transavs.utils.errors import AVSInputError, one_line
from transavs.utils.weight_files import ABOUT_FILE, CONFIG_FILE, SHARED_WEIGHTS

CARD_FILE = "README.md"
OF_TIMM = ("build_timm_backbone", "build_query_vit_backbone")
CARD = """---
{front_matter}---

# {name}

{architecture} of [transavs](https://github.com/transavs/transavs), which marks the pixels of the objects that sound in
a video. The weights are under the license `{license}`.

```python
from transavs import AVSPredictor

predictor = AVSPredictor.from_pretrained("{source}")
for clip in predictor.predict_video("video.mp4", rate=1):
    for frame in clip.frames:
        print(frame.time, [(found.name, found.score) for found in frame.objects()])  # frame.mask(): uint8 (H, W)
```

| | |
|:---|:---|
| visual backbone | `{backbone}` |
| audio backbone | `{audio_backbone}` |
| clips | {frames} frames of {size} x {size} pixels, one per second |
| classes | {classes} |
| trained on | {datasets} |

To go on from it: `transavs-train --config-file config.yaml MODEL.WEIGHTS {weights}`.
{metrics}"""


def save_pretrained(
    weights: str | Path,
    folder: str | Path,
    *,
    license: str,
    results: str | Path | None = None,
    repository: str = "",
    config_file: str | Path | None = None,
) -> None:
    """Write a model into a folder that :func:`transavs.checkpoint.hub.find_pretrained` finds.

    Args:
        weights: checkpoint of the trainer, or converted weights.
        folder: to write into; made where there is none.
        license: of the weights, by the hub's name, such as "cc-by-4.0"; it stands in the card.
        results: ``results.json`` of a test, whose metrics go along.
        repository: "owner/name" by which the card loads the model; "" for the folder's name.
        config_file: in place of the config that the checkpoint carries.

    Raises:
        AVSInputError: there is no license, the checkpoint or the results cannot be read, or the folder cannot be
            written.
    """
    folder = Path(folder)
    if not license.strip():
        raise AVSInputError("the license of the weights is empty: name it, such as cc-by-4.0, or other")
    metrics, tables = _read_results(results) if results is not None else ({}, "")
    files = [folder / name for name in (CONFIG_FILE, ABOUT_FILE, CARD_FILE, SHARED_WEIGHTS)]
    # A shared model may be written again into its own folder: its weights are the same.
    check_outputs(files[:-1], [config_file, results], makes_parents=True)
    trained = load_trained(weights, "cpu", config_file)
    about = {"class_names": trained.class_names, "versions": trained.versions, "metrics": metrics}
    # After this the folder is there.
    write_file(folder / CONFIG_FILE, portable_config(trained.cfg).dump())
    write_file(folder / ABOUT_FILE, json.dumps(about, indent=2) + "\n")
    write_file(folder / CARD_FILE, _card(trained, license, tables, repository, folder))
    # Each has memory of its own, which safetensors asks for.
    state = {name: value.clone().contiguous() for name, value in trained.model.state_dict().items()}
    try:
        with atomic_write(folder / SHARED_WEIGHTS) as partial:
            safetensors.torch.save_file(state, partial, metadata={"format": "pt"})
    except (OSError, safetensors.SafetensorError) as error:  # the latter where the disk is full
        raise AVSInputError(f"{folder / SHARED_WEIGHTS} cannot be written ({one_line(error)}): make room") from error


def push_to_hub(
    weights: str | Path,
    repository: str,
    *,
    license: str,
    results: str | Path | None = None,
    private: bool | None = None,
    config_file: str | Path | None = None,
) -> str:
    """Write what :func:`save_pretrained` writes into a repository of the hub, as whom ``hf auth login`` has logged in.

    Args:
        weights, license, results, config_file: as of :func:`save_pretrained`.
        repository: "owner/name"; made where there is none.
        private: whether others cannot read a repository that is made; None as its owner has it by default.

    Returns:
        address of the commit.

    Raises:
        AVSInputError: as of :func:`save_pretrained`, or the hub refuses it or cannot be reached.
    """
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(
            weights, folder, license=license, results=results, repository=repository, config_file=config_file
        )
        try:
            hub = HfApi(library_name="transavs")
            hub.create_repo(repository, private=private, exist_ok=True)
            return str(hub.upload_folder(repo_id=repository, folder_path=folder).commit_url)
        except Exception as error:  # no network, no login, a name or a license that the hub refuses
            raise AVSInputError(
                f"{repository} cannot be written to the hub ({one_line(error)}): check the network and the name, or "
                "log in with hf auth login"
            ) from error


def _read_results(path: str | Path) -> tuple[dict[str, Any], str]:
    """Read the metrics of a ``results.json``, and lay them out as tables of the card."""
    try:
        found = dict(json.loads(Path(path).read_text(encoding="utf-8")))
        by_set = found if found and all(isinstance(values, dict) for values in found.values()) else {"": found}
        tables = [
            f"\n## Results{f' on `{name}`' if name else ''}\n\n{results_table(by_set[name])}\n" for name in by_set
        ]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise AVSInputError(
            f"{path} holds no results of a test ({one_line(error)}): name a results.json that train_net.py has written"
        ) from error
    return found, "".join(tables)


def _card(trained: Trained, license: str, tables: str, repository: str, folder: Path) -> str:
    cfg, source = trained.cfg, repository or folder.resolve().name
    front_matter = {
        "license": license,
        "library_name": "transavs",
        "pipeline_tag": "image-segmentation",
        "tags": ["audio-visual-segmentation"],
    }
    return CARD.format(
        front_matter=yaml.safe_dump(front_matter, sort_keys=False),
        name=source.rpartition("/")[2],
        architecture=cfg.MODEL.META_ARCHITECTURE,
        license=license,
        source=source,
        backbone=cfg.MODEL.TIMM.NAME if cfg.MODEL.BACKBONE.NAME in OF_TIMM else cfg.MODEL.BACKBONE.NAME,
        audio_backbone=cfg.MODEL.AUDIO_BACKBONE.NAME,
        frames=cfg.INPUT.NUM_FRAMES,
        size=cfg.INPUT.IMAGE_SIZE,
        classes=", ".join(trained.class_names),
        datasets=", ".join(f"`{name}`" for name in cfg.DATASETS.TRAIN) or "not told",
        weights=f"hf://{repository}" if repository else SHARED_WEIGHTS,
        metrics=tables,
    )
