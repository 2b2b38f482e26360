"""transavs: audio-visual segmentation on detectron2.

Importing the package registers the data sets and every component with detectron2.
"""

from transavs import data, modeling
from transavs.config import add_transavs_config
from transavs.errors import AVSInputError
from transavs.predictor import AVSPredictor

__all__ = ["AVSInputError", "AVSPredictor", "add_transavs_config", "data", "modeling"]
__version__ = "0.1.0"
