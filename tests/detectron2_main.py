"""Names of detectron2's main branch, by the module or class that has them, as read in its sources; see test_engines.py.

Read in the copy of main in github.com/konradgold/poseResearch at 6da7dddc (``detectron2/detectron2``), which is
formatted anew but otherwise main's; in that of detectron2.readthedocs.io/en/latest (``utils.comm``); and for files that
the copy lacks in github.com/facebookresearch/detectron2 itself, at the commit beside the line.
"""

MAIN = {
    "detectron2.checkpoint": "DetectionCheckpointer",
    "detectron2.checkpoint.DetectionCheckpointer": "load save resume_or_load has_checkpoint _load_file _load_model",
    "detectron2.config": "CfgNode configurable get_cfg",  # 38ff141f
    "detectron2.config.CfgNode": "clone dump freeze load_cfg merge_from_file merge_from_list merge_from_other_cfg",
    "detectron2.data": (  # 174a174c
        "DatasetCatalog MapDataset MetadataCatalog build_detection_test_loader build_detection_train_loader "
        "detection_utils get_detection_dataset_dicts transforms"
    ),
    "detectron2.data.DatasetCatalog": "get list register remove",
    "detectron2.data.MetadataCatalog": "get list remove",
    "detectron2.data.build": "trivial_batch_collator",
    "detectron2.data.detection_utils": "read_image",
    "detectron2.data.samplers": "InferenceSampler TrainingSampler",  # 1d650efc
    "detectron2.data.samplers.TrainingSampler": "_infinite_indices _rank _seed _shuffle _size _world_size",
    # 0dac8b5d and 17072dff beside the copy
    "detectron2.data.transforms": "AugInput Augmentation AugmentationList RandomFlip Resize ResizeTransform",
    "detectron2.engine": (  # 741dfbc7
        "AMPTrainer DefaultTrainer HookBase SimpleTrainer TrainerBase create_ddp_model default_argument_parser "
        "default_setup default_writers launch"
    ),
    "detectron2.engine.AMPTrainer": (
        "_data_loader_iter _write_metrics after_backward data_loader grad_scaler model optimizer reset_data_loader "
        "run_step"
    ),
    "detectron2.engine.DefaultTrainer": (
        "_hooks _last_eval_results _trainer auto_scale_workers build_evaluator build_hooks build_lr_scheduler "
        "build_model build_optimizer build_test_loader build_train_loader build_writers load_state_dict "
        "register_hooks resume_or_load run_step state_dict test train"
    ),
    "detectron2.engine.TrainerBase": "_hooks iter max_iter start_iter storage",
    "detectron2.engine.HookBase": "after_step after_train before_step before_train state_dict trainer",
    "detectron2.evaluation": (  # 072ea070
        "DatasetEvaluator DatasetEvaluators inference_on_dataset print_csv_format verify_results"
    ),
    "detectron2.evaluation.DatasetEvaluator": "evaluate process reset",
    "detectron2.layers": "Conv2d FrozenBatchNorm2d ShapeSpec get_norm",  # 31542d62
    "detectron2.layers.FrozenBatchNorm2d": "convert_frozen_batchnorm",
    "detectron2.modeling": (
        "BACKBONE_REGISTRY Backbone META_ARCH_REGISTRY ResNet SEM_SEG_HEADS_REGISTRY build_backbone build_model"
    ),
    "detectron2.modeling.BACKBONE_REGISTRY": "get register",
    "detectron2.modeling.META_ARCH_REGISTRY": "get register",
    "detectron2.modeling.SEM_SEG_HEADS_REGISTRY": "get register",
    "detectron2.modeling.Backbone": "forward output_shape size_divisibility",
    "detectron2.modeling.ResNet": "freeze make_stage",
    "detectron2.modeling.backbone.resnet": "BasicBlock BasicStem BottleneckBlock",
    "detectron2.projects.deeplab": "build_lr_scheduler",  # 5410b803
    "detectron2.solver.build": "get_default_optimizer_params maybe_add_gradient_clipping",
    "detectron2.utils": "comm",
    "detectron2.utils.collect_env": "collect_env_info",
    "detectron2.utils.colormap": "colormap random_color",  # 989f52d6
    "detectron2.utils.comm": (
        "_LOCAL_PROCESS_GROUP create_local_process_group gather get_local_rank get_local_size get_rank get_world_size "
        "is_main_process synchronize"
    ),
    "detectron2.utils.events": "EventStorage get_event_storage",
    "detectron2.utils.events.EventStorage": "history latest put_image put_scalar put_scalars",
    "detectron2.utils.file_io": "PathManager",  # 1b559628
    "detectron2.utils.file_io.PathManager": "get_local_path isfile mkdirs open",
    "detectron2.utils.logger": "log_every_n log_first_n setup_logger",
    "detectron2.utils.registry": "Registry locate",  # 097efabd
}
