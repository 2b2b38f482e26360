"""Processes of one run: detectron2's launcher, or those that torchrun has started."""

import ctypes
import multiprocessing
import os
import signal
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import launch as launch_with_detectron2
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException

from transavs.checkpoint.hub import local_weights
from transavs.checkpoint.load import carried_config
from transavs.config.load import load_config, override
from transavs.engine.hooks import SIGNALED
from transavs.utils.errors import AVSInputError
from transavs.utils.weight_files import read_checkpoint

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's mallopt


def started_by_torchrun() -> bool:
    """Tell whether this process is one of several that torchrun (or another elastic launcher) has started."""
    return {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"} <= os.environ.keys()


def launch(main: Callable[[Namespace], None], args: Namespace) -> None:
    """Run ``main(args)`` in all processes of the run.

    Under torchrun the processes are there already, on one machine or several, and talk by NCCL where MODEL.DEVICE is a
    GPU, else by gloo; ``--num-gpus``, ``--num-machines``, ``--machine-rank`` and ``--dist-url`` are not needed.
    Otherwise detectron2's launcher starts ``--num-gpus`` processes here; it needs a GPU for each.

    Raises:
        AVSInputError: the config that ``args`` name cannot be loaded, or there are fewer GPUs than ``--num-gpus``.
    """
    prepare_cpu()
    if not started_by_torchrun():
        if args.num_gpus > max(1, there := torch.cuda.device_count()):
            raise AVSInputError(
                f"--num-gpus is {args.num_gpus} (expected {there} or fewer, the GPUs that PyTorch sees here): give "
                "another number, or for processes on a CPU start with torchrun"
            )
        with _signals_left_to_processes():
            launch_with_detectron2(
                main,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(args,),
            )
        return
    device = config_of_run(args).MODEL.DEVICE
    on_gpu = device.startswith("cuda") and torch.cuda.is_available()  # main tells of one that is not there
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
        comm.synchronize()
        main(args)
    finally:
        dist.destroy_process_group()


@contextmanager
def _signals_left_to_processes() -> Iterator[None]:
    """Let the processes that are started within the context end by themselves on a signal, and end as they do."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        for process in multiprocessing.active_children():
            os.kill(process.pid or 0, number)

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except ProcessExitedException as error:
        if error.exit_code not in [SIGNALED + number for number in previous]:
            raise
        raise SystemExit(error.exit_code) from error
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def config_of_run(args: Namespace) -> CfgNode:
    """Load the config of ``--config-file``, or without one that which the checkpoint of ``--eval-only`` carries.

    Raises:
        AVSInputError: there is neither, or one that cannot be used.
    """
    if args.config_file:
        return load_config(args.config_file, args.opts)
    weights = dict(zip(args.opts[::2], args.opts[1::2], strict=False)).get("MODEL.WEIGHTS")
    if not (args.eval_only and weights):
        raise AVSInputError(
            "--config-file is missing: name a config such as configs/s4_r50.yaml; --eval-only with MODEL.WEIGHTS does "
            "without"
        )
    cfg = carried_config(read_checkpoint(local_weights(weights)), weights)
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    override(cfg, args.opts)
    return cfg


def prepare_cpu() -> None:
    """Set a process up for training on a CPU; to be called before tensors are worked on.

    Numbers below 1e-38 count as 0: powers of small probabilities are such, and cost a hundredfold. And glibc keeps what
    large tensors have freed for the next ones, as torch does on GPUs: fresh pages of the system cost up to a fifth of a
    training step, most on virtual machines.
    """
    torch.set_flush_denormal(True)  # threads inherit it when they are made
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)  # never


def create_local_process_group(processes_per_machine: int) -> None:
    """Tell detectron2 which processes share this machine; ranks are consecutive on each machine."""
    if hasattr(comm, "create_local_process_group"):  # detectron2 main
        comm.create_local_process_group(processes_per_machine)
        return
    for first in range(0, dist.get_world_size(), processes_per_machine):
        ranks = range(first, first + processes_per_machine)
        group = dist.new_group(list(ranks))
        if dist.get_rank() in ranks:
            comm._LOCAL_PROCESS_GROUP = group
