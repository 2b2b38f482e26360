"""Processes of one run: detectron2's launcher, or those that torchrun has started."""

import ctypes
import os
import platform
from argparse import Namespace
from collections.abc import Callable

import torch
import torch.distributed as dist
from detectron2.engine import launch as launch_with_detectron2
from detectron2.utils import comm

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGE_ALLOCATION = 1 << 20  # bytes


def started_by_torchrun() -> bool:
    """Whether this process is one of several that torchrun (or another elastic launcher) has started."""
    return {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"} <= os.environ.keys()


def launch(main: Callable[[Namespace], None], args: Namespace) -> None:
    """Run ``main(args)`` in all processes of the run.

    Under torchrun the processes are there already, on GPUs (NCCL) or CPUs (gloo), on one machine or several, and
    ``--num-gpus``, ``--num-machines``, ``--machine-rank`` and ``--dist-url`` are not needed. Otherwise detectron2's
    launcher starts ``--num-gpus`` processes here; it needs a GPU for each.
    """
    tune_process()
    if not started_by_torchrun():
        launch_with_detectron2(
            main,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
        comm.synchronize()
        main(args)
    finally:
        dist.destroy_process_group()


def tune_process() -> None:
    """Settings of a process that computes on the CPU; to be made before tensors are worked on."""
    # Numbers below 1e-38 become 0: powers of small probabilities are such, and cost a hundredfold.
    torch.set_flush_denormal(True)
    if platform.libc_ver()[0] == "glibc":  # the memory of large tensors goes back when they are freed, a tenth of all
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, LARGE_ALLOCATION)
        libc.mallopt(M_TRIM_THRESHOLD, 4 * LARGE_ALLOCATION)


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
