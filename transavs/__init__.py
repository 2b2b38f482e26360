"""transavs: audio-visual segmentation on detectron2.

Importing the package registers the data sets and every component with detectron2.
"""

from transavs import data, modeling
from transavs.config import add_transavs_config, load_config
from transavs.inference import AVSPredictor
from transavs.utils.errors import AVSInputError

__all__ = ["AVSInputError", "AVSPredictor", "add_transavs_config", "data", "load_config", "modeling"]
__version__ = "0.1.0"
