"""detectron2's default trainer with the project's data, optimizer and evaluation."""

import logging
import weakref
from collections import Counter, OrderedDict
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, build_detection_test_loader
from detectron2.engine import DefaultTrainer, EvalHook, HookBase, TrainerBase, create_ddp_model
from detectron2.engine.hooks import PreciseBN
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, print_csv_format
from detectron2.projects.deeplab import build_lr_scheduler
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from torch import nn

from transavs.checkpoint.checkpointer import AVSCheckpointer
from transavs.checkpoint.load import without_starting_weights
from transavs.checkpoint.versions import version_changes
from transavs.data.audio_conditions import AUDIO_CONDITIONS, NEGATIVE_AUDIO, NegativeAudio, apply_audio_condition
from transavs.data.build import (
    ReadableClips,
    SeededClipDataset,
    build_train_loader,
    clip_or_error,
    load_records,
    start_worker,
)
from transavs.data.dataset_mapper import AVSDatasetMapper
from transavs.data.front_ends import find_front_end
from transavs.engine.evaluation import check_test_sets, evaluate
from transavs.engine.hooks import (
    BestWeights,
    FigureLogger,
    PreciseStatistics,
    RandomNumbersByIteration,
    RepairReport,
    StopOnSignal,
    ThresholdSchedule,
)
from transavs.engine.resume import last_checkpoint, restore
from transavs.engine.solver import build_optimizer
from transavs.engine.train_loop import GuardedTrainer, StopRequest
from transavs.engine.weight_average import WeightAverage
from transavs.engine.writers import WandbWriter, forget_wandb_run
from transavs.evaluation.avs_evaluator import AVSEvaluator
from transavs.evaluation.prediction_writer import PredictionWriter
from transavs.evaluation.results import LEFT_OUT, combined_scores, results_table, write_results
from transavs.evaluation.scores import Scores
from transavs.modeling.activation_checkpoint import checkpoint_activations
from transavs.modeling.compilation import compile_network
from transavs.modeling.transavs.criterion import AVSCriterion
from transavs.utils.errors import AVSInputError
from transavs.utils.precision import find_precision
from transavs.utils.weight_files import read_checkpoint
from transavs.visualization.clip_figure import ClipFigure

FIGURE_NAME = "figure.png"
# Folders in OUTPUT_DIR; the second is also what the metrics of DATASETS.VAL are called in metrics.json.
PREDICTIONS, VALIDATION = "inference", "val"


class AVSTrainer(DefaultTrainer):
    """Trains and tests any meta-architecture on any AVSBench subset."""

    def __init__(self, cfg: CfgNode, resume: bool = False):
        """Build all parts as detectron2 does, whose own constructor wraps the model in a way that works on GPUs alone.

        Args:
            cfg: the config.
            resume: whether :meth:`resume_or_load` will go on from the last checkpoint in OUTPUT_DIR: the weights that
                it holds are then not fetched first.

        Raises:
            AVSInputError: SOLVER.AMP or TEST asks for a precision that MODEL.DEVICE does not have, or MODEL.COMPILE for
                what cannot be compiled.
        """
        TrainerBase.__init__(self)
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        check_test_sets(cfg, cfg.DATASETS.VAL, ["true"])
        check_test_sets(cfg, cfg.DATASETS.TEST, cfg.TEST.AUDIO_CONDITIONS)
        seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        self._random_numbers = RandomNumbersByIteration(seed, is_chosen=cfg.SEED >= 0)
        self._last = last_checkpoint(cfg.OUTPUT_DIR) if resume else None
        model = self.build_model(without_starting_weights(cfg, read_checkpoint(self._last)) if self._last else cfg)
        precision = find_precision(cfg.SOLVER.AMP.PRECISION if cfg.SOLVER.AMP.ENABLED else "float32", cfg.MODEL.DEVICE)
        find_precision(cfg.TEST.PRECISION, cfg.MODEL.DEVICE)  # which says so now, and not after the training
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        # The model moves its inputs itself, so the device need not be told; on CPUs it must not. Some configs leave
        # parameters without a gradient, such as those of a level that no decoder layer attends to.
        model = create_ddp_model(model, broadcast_buffers=False, device_ids=None, find_unused_parameters=True)
        self._repairs: Counter[str] = Counter()
        self._average = WeightAverage(_bare(model), cfg.MODEL.EMA.DECAY) if cfg.MODEL.EMA.ENABLED else None
        kept = _bare(model) if self._average is None else self._average.model
        self.checkpointer = AVSCheckpointer(kept, cfg.OUTPUT_DIR, cfg, trainer=weakref.proxy(self))
        stop = StopRequest()
        self._stop = StopOnSignal(self.checkpointer, stop)
        self._trainer = GuardedTrainer(
            model,
            loader,
            optimizer,
            precision=precision,
            on_non_finite=cfg.SOLVER.ON_NON_FINITE,
            on_silent_batch=cfg.SOLVER.ON_SILENT_BATCH,
            max_skipped=cfg.SOLVER.MAX_SKIPPED_BATCHES,
            repairs=self._repairs,
            accumulate=cfg.SOLVER.ACCUMULATE,
            front_end=find_front_end(cfg),
            stop=stop,
        )
        if cfg.MODEL.COMPILE:
            compile_network(_bare(model), cfg.MODEL.COMPILE)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Load MODEL.WEIGHTS, or with ``resume`` go on from the last checkpoint in OUTPUT_DIR, if there is one.

        Raises:
            AVSInputError: what is to be loaded is no checkpoint, or none of this model; or a frozen audio backbone
                would stay random.
        """
        last = self._last
        if resume and last is None:
            last = last_checkpoint(self.cfg.OUTPUT_DIR)
        if resume and comm.is_main_process():
            self.checkpointer.remove_partial_files()
        if not (resume and last):
            if comm.is_main_process():
                forget_wandb_run(self.cfg.OUTPUT_DIR)
            self.checkpointer.load(self.cfg.MODEL.WEIGHTS, checkpointables=[])
            self._check_frozen_audio(self.checkpointer.missing)
            return
        found = self.checkpointer.load(last, checkpointables=[])
        restore(self, found, last)
        if changes := version_changes(found.get("versions", {})):
            logging.getLogger(__name__).warning("the run began with other versions (%s)", ", ".join(changes))
        self.start_iter = self.iter + 1
        self._replace_train_loader(self.build_train_loader(self.cfg, self.start_iter))

    def _check_frozen_audio(self, missing: Collection[str]) -> None:
        """Raise an AVSInputError if the audio backbone is frozen and none of its weights has been loaded."""
        settings = self.cfg.MODEL.AUDIO_BACKBONE
        is_random = not self.cfg.MODEL.WEIGHTS or any(name.startswith("audio_backbone.") for name in missing)
        if settings.FREEZE and not settings.WEIGHTS and is_random:
            raise AVSInputError(
                "MODEL.AUDIO_BACKBONE is frozen and has no weights, so it would stay random: set its WEIGHTS, to the "
                "path or URL of vggish-10086976.pth for VGGish, or its FREEZE to False to train it"
            )

    @property
    def _kept_model(self) -> nn.Module:
        """The model that is evaluated, written and loaded into: with MODEL.EMA the averaged one."""
        return self.model if self._average is None else self._average.model

    def _replace_train_loader(self, loader: Any) -> None:
        if hasattr(self._trainer, "reset_data_loader"):  # detectron2 main
            self._trainer.reset_data_loader(lambda: loader)
        else:  # v0.6
            self._trainer.data_loader, self._trainer._data_loader_iter = loader, iter(loader)

    def train(self) -> Any:
        with self._stop.handling_signals():
            return super().train()

    def state_dict(self) -> dict[str, Any]:
        # v0.6 leaves out what its inner trainer has: the optimizer and the scaler of mixed precision.
        return super().state_dict() | {"_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    def build_hooks(self) -> list[HookBase]:
        # The average comes before all that evaluates or writes it.
        first = [self._random_numbers, RepairReport(self._repairs), *([self._average] if self._average else [])]
        hooks = [*first, *super().build_hooks()]
        hooks = [self._precise_statistics() if isinstance(hook, PreciseBN) else hook for hook in hooks]
        output = Path(self.cfg.OUTPUT_DIR)
        # Before the writers, which detectron2 puts last on the main process.
        hooks.insert(-1, FigureLogger(output / FIGURE_NAME))
        evaluation = [EvalHook(self.cfg.TEST.EVAL_PERIOD, self._test)]
        if self.cfg.DATASETS.VAL:
            hooks.insert(-1, FigureLogger(output / VALIDATION / FIGURE_NAME, "validation"))
            evaluation = self._build_validation_hooks()
        place = next(place for place, hook in enumerate(hooks) if isinstance(hook, EvalHook))
        # What stops a run comes before its evaluation, which a scheduler would not wait for.
        hooks[place : place + 1] = [self._stop, *evaluation]
        criterion = getattr(_bare(self.model), "criterion", None)
        if isinstance(criterion, AVSCriterion):
            settings = self.cfg.MODEL.TRANSAVS
            schedule = ThresholdSchedule(
                criterion,
                aqdl_threshold=settings.AQDL_THRESHOLD,
                aqml_threshold=settings.AQML_THRESHOLD,
                steps=settings.THRESHOLD_STEPS,
                period=settings.THRESHOLD_PERIOD or self.cfg.SOLVER.MAX_ITER / settings.THRESHOLD_STEPS,
            )
            hooks.insert(0, schedule)
        return hooks

    def _precise_statistics(self) -> PreciseStatistics:
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0  # as detectron2 has it, to save memory
        settings = cfg.TEST
        loader = partial(self.build_train_loader, cfg)
        return PreciseStatistics(settings.EVAL_PERIOD, self._kept_model, loader, settings.PRECISE_BN.NUM_ITER)

    def build_writers(self) -> list[EventWriter]:
        return [*super().build_writers(), *([WandbWriter(self.cfg)] if self.cfg.WANDB.ENABLED else [])]

    def _build_validation_hooks(self) -> list[HookBase]:
        """Validation that keeps the best weights, and the test of these at the end."""
        names, period = self.cfg.DATASETS.VAL, self.cfg.TEST.EVAL_PERIOD
        metric = "mIoU" if self.cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES > 2 else "J"
        validation = EvalHook(period, self._validate)
        best = BestWeights(
            validation,
            period=period,
            checkpointer=AVSCheckpointer(_bare(self._kept_model), self.cfg.OUTPUT_DIR, self.cfg),
            metric="/".join([VALIDATION, *(names[:1] if len(names) > 1 else ()), "sem_seg", metric]),
            measured_on=f"{metric} on {names[0]} at SCORE_SIZE {self.cfg.TEST.SCORE_SIZE}",
        )
        return [validation, best, EvalHook(0, lambda: self._test_best(best))]

    def _validate(self) -> dict[str, Any]:
        """Evaluate on DATASETS.VAL, with the files in a folder of their own; the same is returned on all ranks."""
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.DATASETS.TEST, cfg.OUTPUT_DIR = cfg.DATASETS.VAL, str(Path(cfg.OUTPUT_DIR, VALIDATION))
        cfg.TEST.AUDIO_CONDITIONS, cfg.TEST.SAVE_PREDICTIONS, cfg.TEST.AUG.ENABLED = ["true"], [], False
        with self._stop.during_evaluation():
            return {VALIDATION: comm.all_gather(self.test(cfg, self._kept_model))[0]}

    def _test_best(self, best: BestWeights) -> dict[str, Any]:
        """Load what :meth:`_validate` found to be best, if anything was, and test it."""
        if path := comm.all_gather(best.path)[0]:  # by now the main process has written it
            AVSCheckpointer(_bare(self._kept_model)).load_all(path)
        return self._test()

    def _test(self) -> dict[str, Any]:
        with self._stop.during_evaluation():
            self._last_eval_results = self.test(self.cfg, self._kept_model)
        return self._last_eval_results

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        model: nn.Module = super().build_model(cfg)
        checkpoint_activations(model, cfg.MODEL.ACTIVATION_CHECKPOINTING)
        return model

    def build_train_loader(self, cfg: CfgNode, start_iter: int = 0) -> Any:
        """Loader of DATASETS.TRAIN, with this run's seed, that goes on where iteration ``start_iter`` stands."""
        seed = self._random_numbers.seed
        dataset = load_records(cfg.DATASETS.TRAIN)
        share, kinds = cfg.INPUT.NEGATIVE_AUDIO_PROB, cfg.INPUT.NEGATIVE_AUDIO
        negative_audio = NegativeAudio(dataset, kinds, share) if share > 0 else None
        mapper = AVSDatasetMapper(cfg, is_train=True, negative_audio=negative_audio)
        skip_broken = cfg.DATALOADER.ON_BROKEN_CLIP == "skip"
        return build_train_loader(
            SeededClipDataset(dataset, mapper, seed=seed, skip_broken=skip_broken),
            seed=seed,
            batch_size=cfg.SOLVER.IMS_PER_BATCH,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
            start_iter=start_iter * cfg.SOLVER.ACCUMULATE,
        )

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str, condition: str = "true") -> Any:
        """Build the loader of one test set with the audio that ``condition`` (a key of AUDIO_CONDITIONS) says."""
        dataset = apply_audio_condition(load_records([dataset_name]), condition)
        mapper: Any = AVSDatasetMapper(cfg, is_train=False)
        skip_broken = cfg.DATALOADER.ON_BROKEN_CLIP == "skip"
        if skip_broken:
            mapper = partial(clip_or_error, mapper)
        loader = build_detection_test_loader(dataset, mapper=mapper, num_workers=cfg.DATALOADER.NUM_WORKERS)
        loader.worker_init_fn = start_worker
        return ReadableClips(loader) if skip_broken else loader

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, condition: str = "true") -> DatasetEvaluator:
        """Build the metrics, and what TEST asks for beside them."""
        class_names = MetadataCatalog.get(dataset_name).stuff_classes
        evaluators: list[DatasetEvaluator] = [
            AVSEvaluator(class_names, AUDIO_CONDITIONS[condition], condition in NEGATIVE_AUDIO)
        ]
        if cfg.TEST.SAVE_PREDICTIONS:
            folder = Path(cfg.OUTPUT_DIR) / PREDICTIONS / f"{dataset_name}{AUDIO_CONDITIONS[condition]}"
            evaluators.append(PredictionWriter(folder, cfg.TEST.SAVE_PREDICTIONS, class_names))
        if cfg.TEST.FIGURE_CLIPS and not AUDIO_CONDITIONS[condition]:
            evaluators.append(ClipFigure(Path(cfg.OUTPUT_DIR) / FIGURE_NAME, cfg.TEST.FIGURE_CLIPS, class_names))
        return DatasetEvaluators(evaluators)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> dict[str, Any]:
        """Evaluate on every set of DATASETS.TEST under every one of TEST.AUDIO_CONDITIONS.

        Writes ``results.json``, ``groups.json``, ``results.md`` and ``figure.png`` into OUTPUT_DIR.

        Args:
            cfg: the configuration.
            model: with its weights loaded.
            evaluators: one per test set in place of the project's own, for the first audio condition alone.

        Returns:
            ``{"sem_seg": {"J": ..., "F": ..., "J_shuffled": ..., ...}}`` in percent; one such per name when there
            are several test sets; empty dicts on ranks other than the main one.
        """
        check_test_sets(cfg, cfg.DATASETS.TEST, cfg.TEST.AUDIO_CONDITIONS)
        results: OrderedDict[str, Any] = OrderedDict()
        for index, name in enumerate(cfg.DATASETS.TEST):
            if evaluators is not None:
                results[name] = evaluate(cfg, model, cls.build_test_loader(cfg, name), evaluators[index])
                continue
            scores: dict[str, list[dict[str, float]]] = {}
            for condition in dict.fromkeys(cfg.TEST.AUDIO_CONDITIONS):
                loader = cls.build_test_loader(cfg, name, condition)
                found = evaluate(cfg, model, loader, cls.build_evaluator(cfg, name, condition))
                left_out = sum(map(len, comm.gather(getattr(loader, "left_out", []))))
                if left_out and comm.is_main_process():
                    found["sem_seg"][f"{LEFT_OUT}{AUDIO_CONDITIONS[condition]}"] = left_out
                for task, values in found.items():
                    scores.setdefault(task, []).append(values)
            results[name] = merged = {task: Scores.merged(parts) for task, parts in scores.items()}
            for values in merged.values():
                values.update(combined_scores(values))
            if comm.is_main_process():
                print_csv_format(merged)
                logging.getLogger(__name__).info("%s\n%s", name, results_table(merged["sem_seg"]))
        if comm.is_main_process() and evaluators is None:
            write_results(results, Path(cfg.OUTPUT_DIR))
        return next(iter(results.values())) if len(results) == 1 else results


def _bare(model: nn.Module) -> Any:
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
