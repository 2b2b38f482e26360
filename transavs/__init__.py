"""transavs: audio-visual segmentation on detectron2.

Importing the package registers the data sets and every component with detectron2.
"""

from importlib.util import find_spec

if find_spec("detectron2") is None:
    raise ModuleNotFoundError("detectron2 is missing: run transavs-install-detectron2, or tools/install_detectron2.py")

from transavs import data, modeling
from transavs.config import add_transavs_config
from transavs.errors import AVSInputError
from transavs.predictor import AVSPredictor

__all__ = ["AVSInputError", "AVSPredictor", "add_transavs_config", "data", "modeling"]
