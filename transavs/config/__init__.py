"""Configuration: the keys, reading files of them, and what is looked at before any work."""

from transavs.config.defaults import add_transavs_config
from transavs.config.load import load_config

__all__ = ["add_transavs_config", "load_config"]
