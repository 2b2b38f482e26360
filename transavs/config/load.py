"""Loading configs from YAML files, so that a stranger's runs nothing and takes no more memory than it says."""

import io
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import yaml
from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg
from fvcore.common.config import CfgNode

from transavs.config.defaults import add_transavs_config
from transavs.config.validate import check_sections, check_values
from transavs.utils.errors import AVSInputError, one_line

MAX_ENTRIES = 10_000  # detectron2's and ours together have some hundreds


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file and those that it names as ``_BASE_``, without running code from them.

    Raises:
        AVSInputError: a file is missing, no YAML in UTF-8, or no mapping.
    """
    try:
        values: dict[str, Any] = _LocalConfig.load_yaml_with_base(str(path))
    except RecursionError as error:
        raise AVSInputError(
            f"{path}: its _BASE_ leads back to itself, or it is nested too deeply: name another file there"
        ) from error
    except (TypeError, AttributeError, AssertionError) as error:  # fvcore takes names and mappings for granted
        raise AVSInputError(f"{path}: its _BASE_ does not fit ({error}): name the file of a config") from error
    return values


def parse_yaml(text: str, source: str | Path) -> dict[str, Any]:
    """Parse the mapping in a YAML text.

    Raises:
        AVSInputError: it is no YAML, asks for code to be run, is no mapping, or large beyond sense.
    """
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: dates and numbers that are none
        told = " ".join(str(error).split())
        raise AVSInputError(f"{source} cannot be read as YAML ({told}): correct the file") from error
    if not isinstance(values, dict):
        raise AVSInputError(f"{source} holds no KEY: VALUE lines: name a config such as configs/s4_r50.yaml")
    _refuse_bomb(values, source)
    return values


def _refuse_bomb(values: dict[str, Any], source: str | Path) -> None:
    """A few aliases of aliases are small in memory, and without end when they are copied or told in a message."""
    left: list[Any] = [values]
    for _ in range(MAX_ENTRIES):
        if not left:
            return
        value = left.pop()
        if isinstance(value, dict):
            left += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set):
            left += value
    raise AVSInputError(f"{source} holds more than {MAX_ENTRIES} entries: it is no config, name another")


class _LocalConfig(CfgNode):
    """fvcore's reader, which puts files together by ``_BASE_``, for files on this machine that are looked at first."""

    @classmethod
    def _open_cfg(cls, filename: str) -> IO[str]:
        path = Path(filename)
        if path.is_dir():
            raise AVSInputError(f"the config {filename!r} is a folder: name a file in it")
        if not path.is_file():
            raise AVSInputError(f"the config {filename!r} does not exist: name a file such as configs/s4_r50.yaml")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise AVSInputError(f"the config {filename!r} is no text in UTF-8 ({error}): name another") from error
        parse_yaml(text, filename)
        return io.StringIO(text)


def load_config(config_file: str | Path, overrides: Sequence[str] = ()) -> CN:
    """Load detectron2's defaults, transavs's keys, a YAML file and ``KEY VALUE`` overrides, in this order.

    No code in the file is run, as detectron2's own ``merge_from_file`` would.

    Raises:
        AVSInputError: the file is missing or broken, a key is unknown, a value of the wrong type or out of its range.
    """
    cfg = _default_config()
    values = read_yaml(find_config(config_file))
    check_sections(values, cfg)
    try:
        cfg.merge_from_other_cfg(CN(values))
    except Exception as error:  # yacs raises many kinds, all about what the file holds
        raise AVSInputError(
            f"{config_file}: {one_line(error)}: correct the file, see transavs/config/defaults.py"
        ) from error
    override(cfg, overrides)
    return cfg


def override(cfg: CN, overrides: Sequence[str]) -> None:
    """Merge ``KEY VALUE`` overrides into a config, in place.

    Raises:
        AVSInputError: a key is unknown, a value of the wrong type or out of its range.
    """
    try:
        cfg.merge_from_list(list(overrides))
    except Exception as error:
        raise AVSInputError(f"overrides {list(overrides)}: {one_line(error)}: give KEY VALUE pairs") from error
    check_values(cfg, _default_config())


def find_config(config_file: str | Path) -> Path:
    """Find a file on disk, or else the config of this name that comes with transavs, "configs/" before it or not.

    Raises:
        AVSInputError: there is neither.
    """
    path, package = Path(config_file), Path(__file__).parents[1]
    if path.exists():
        return path
    # A wheel has the folder inside the package, a checkout beside it.
    packaged = package / CONFIGS if (package / CONFIGS).is_dir() else package.parent / CONFIGS
    found = packaged / (path.relative_to(CONFIGS) if path.parts[:1] == (CONFIGS,) else path)
    if not found.is_file():
        raise AVSInputError(
            f"the config {str(config_file)!r} does not exist: name a file of your own or one of those in {packaged}"
        )
    return found


def parse_config(text: str, source: str | Path) -> CN:
    """Load a config from the YAML text that ``source``, a checkpoint, carries, as :func:`load_config` does."""
    cfg = _default_config()
    try:
        cfg.merge_from_other_cfg(CN(parse_yaml(text, source)))
        check_values(cfg, _default_config())
    except Exception as error:
        raise AVSInputError(f"the config in {source}: {one_line(error)}: give a config file beside it") from error
    return cfg


def portable_config(cfg: CN) -> CN:
    """Copy a config without the device, the file and the folder of the machine that it was loaded on."""
    portable, default = cfg.clone(), _default_config()
    portable.MODEL.DEVICE, portable.MODEL.WEIGHTS, portable.OUTPUT_DIR = default.MODEL.DEVICE, "", default.OUTPUT_DIR
    return portable


def config_changes(before: CN, now: CN, sections: Sequence[str] = (), but_for: Collection[str] = ()) -> list[str]:
    """List the keys in which two configs differ, as "key: then, now".

    Args:
        before, now: the configs.
        sections: top-level keys to look at; by default all.
        but_for: keys to leave out, with their sections.
    """
    one, other = (dict(_flat(cfg)) for cfg in (before, now))
    return [
        f"{key}: {one.get(key)}, now {other.get(key)}"
        for key in sorted(one.keys() | other.keys())
        if key not in but_for
        and (not sections or key.partition(".")[0] in sections)
        and _comparable(one.get(key)) != _comparable(other.get(key))
    ]


def _comparable(value: Any) -> Any:
    """Make lists of tuples: YAML has no tuples, so a config that a checkpoint carries may have either."""
    return [_comparable(entry) for entry in value] if isinstance(value, list | tuple) else value


def _flat(cfg: CN, path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in cfg.items():
        if isinstance(value, CN):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield path + key, value


def _default_config() -> CN:
    cfg = get_cfg()
    add_transavs_config(cfg)
    return cfg


CONFIGS = "configs"
