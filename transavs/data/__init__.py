"""Data sets, audio front-end and mapper; importing it registers the data sets."""

from transavs.data.avsbench import register_all_avsbench, register_avs_dataset
from transavs.data.dataset_mapper import AVSDatasetMapper

__all__ = ["AVSDatasetMapper", "register_all_avsbench", "register_avs_dataset"]
