"""Processes that share the views of each training step; one process alone needs none of this.

`torchrun` starts them. Each makes the gradients of its own views, and all take the same step with the mean.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


def process_count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def process_number() -> int:
    """The number of this one, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def first_process_first(work: Callable[[], T]) -> T:
    """Do some work in every process; the others begin when the first one is done."""
    if process_number() > 0:
        dist.barrier()
    done = work()
    if process_number() == 0 and process_count() > 1:
        dist.barrier()
    return done


def join_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Set the gradients of all processes to their mean."""
    if process_count() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= process_count()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def any_process(asked: bool) -> bool:
    """True in all processes if `asked` is true in one of them."""
    if process_count() == 1:
        return asked
    flag = torch.tensor(float(asked))
    dist.all_reduce(flag)
    return flag.item() > 0
