"""Names in a config that must be registered: parts of the model, and data sets."""

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY

from transavs.modeling.backbones.audio import AUDIO_BACKBONE_REGISTRY
from transavs.modeling.transavs.query_decoder import TRANSFORMER_DECODER_REGISTRY
from transavs.utils.errors import AVSInputError


def check_registered(cfg: CfgNode, training: bool) -> None:
    """Raise an AVSInputError if ``cfg`` names a part or a data set that is not registered; what is must be imported.

    Args:
        cfg: the config.
        training: whether DATASETS.TRAIN and DATASETS.VAL are needed too.
    """
    transavs = cfg.MODEL.TRANSAVS
    parts = {
        "MODEL.META_ARCHITECTURE": (cfg.MODEL.META_ARCHITECTURE, META_ARCH_REGISTRY),
        "MODEL.BACKBONE.NAME": (cfg.MODEL.BACKBONE.NAME, BACKBONE_REGISTRY),
        "MODEL.AUDIO_BACKBONE.NAME": (cfg.MODEL.AUDIO_BACKBONE.NAME, AUDIO_BACKBONE_REGISTRY),
        "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": (cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME, SEM_SEG_HEADS_REGISTRY),
        "MODEL.TRANSAVS.TRANSFORMER_DECODER_NAME": (transavs.TRANSFORMER_DECODER_NAME, TRANSFORMER_DECODER_REGISTRY),
    }
    for key, (name, registry) in parts.items():
        if name not in registry:
            known = ", ".join(sorted(known for known, _ in registry))
            raise AVSInputError(f"{key} is {name!r}, which is not registered: choose from {known}")
    ours = [name for name in DatasetCatalog.list() if MetadataCatalog.get(name).get("evaluator_type") == "avs"]
    if training and not cfg.DATASETS.TRAIN:
        raise AVSInputError("DATASETS.TRAIN is empty: name a data set to train on")
    for key in ("TRAIN", "VAL", "TEST") if training else ("TEST",):
        for name in cfg.DATASETS[key]:
            if name not in DatasetCatalog.list():
                known = ", ".join(sorted(ours))
                raise AVSInputError(f"DATASETS.{key} holds {name!r}, which is not registered: choose from {known}")
