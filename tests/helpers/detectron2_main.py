"""Names of detectron2's main branch that transavs uses, by the module or class that has them; see test_engines.py.

Each was found in main's sources: in a whole copy of it, or for what that copy lacks in older commits of main.
"""

MAIN = {
    "detectron2.checkpoint": "DetectionCheckpointer",
    "detectron2.checkpoint.DetectionCheckpointer": "_load_file save tag_last_checkpoint",
    "detectron2.config": "CfgNode configurable get_cfg",
    "detectron2.data": (
        "DatasetCatalog DatasetFromList MapDataset MetadataCatalog build_detection_test_loader "
        "detection_utils get_detection_dataset_dicts transforms"
    ),
    "detectron2.data.DatasetCatalog": "get list register",
    "detectron2.data.MetadataCatalog": "get",
    "detectron2.data.build": "trivial_batch_collator worker_init_reset_seed",
    "detectron2.data.detection_utils": "convert_PIL_to_numpy",
    "detectron2.data.samplers": "TrainingSampler",
    "detectron2.data.samplers.TrainingSampler": "_infinite_indices",
    "detectron2.data.transforms": (
        "AugInput Augmentation AugmentationList BlendTransform ColorTransform FixedSizeCrop RandomBrightness "
        "RandomContrast RandomCrop RandomFlip RandomSaturation Resize ResizeScale ResizeTransform Transform"
    ),
    "detectron2.engine": (
        "BestCheckpointer DefaultTrainer EvalHook HookBase SimpleTrainer TrainerBase create_ddp_model "
        "default_argument_parser default_setup launch"
    ),
    "detectron2.engine.DefaultTrainer": (
        "_last_eval_results _trainer build_hooks build_model load_state_dict state_dict"
    ),
    "detectron2.engine.SimpleTrainer": (
        "_data_loader_iter _write_metrics data_loader load_state_dict reset_data_loader state_dict"
    ),
    "detectron2.engine.TrainerBase": "iter start_iter storage",
    "detectron2.engine.hooks": "PreciseBN",
    "detectron2.engine.hooks.PreciseBN": "_data_iter update_stats",
    "detectron2.evaluation": (
        "DatasetEvaluator DatasetEvaluators inference_context inference_on_dataset print_csv_format verify_results"
    ),
    "detectron2.layers": "Conv2d FrozenBatchNorm2d ShapeSpec get_norm",
    "detectron2.layers.FrozenBatchNorm2d": "convert_frozen_batchnorm",
    "detectron2.modeling": (
        "BACKBONE_REGISTRY Backbone META_ARCH_REGISTRY ResNet SEM_SEG_HEADS_REGISTRY build_backbone build_model"
    ),
    "detectron2.modeling.BACKBONE_REGISTRY": "register",
    "detectron2.modeling.META_ARCH_REGISTRY": "register",
    "detectron2.modeling.ResNet": "make_stage",
    "detectron2.modeling.SEM_SEG_HEADS_REGISTRY": "get register",
    "detectron2.modeling.backbone.resnet": "BasicBlock BasicStem",
    "detectron2.projects.deeplab": "build_lr_scheduler",
    "detectron2.solver.build": "get_default_optimizer_params maybe_add_gradient_clipping",
    "detectron2.utils": "comm",
    "detectron2.utils.colormap": "colormap",
    "detectron2.utils.comm": (
        "_LOCAL_PROCESS_GROUP all_gather create_local_process_group gather get_rank get_world_size "
        "is_main_process shared_random_seed synchronize"
    ),
    "detectron2.utils.env": "seed_all_rng",
    "detectron2.utils.events": "EventStorage",
    "detectron2.utils.events.EventStorage": "iter put_image put_scalar",
    "detectron2.utils.file_io": "PathManager",
    "detectron2.utils.file_io.PathManager": "get_local_path open",
    "detectron2.utils.logger": "log_first_n setup_logger",
    "detectron2.utils.registry": "Registry",
}
