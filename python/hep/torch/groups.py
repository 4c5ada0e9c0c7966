"""Process groups of torch.distributed: those that a plan's ranks meet in, for whoever places experts by other code; and
the carrier by which libhep communicates over them."""
from __future__ import annotations

import contextlib
import ctypes
import re
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, Optional

import torch
import torch.distributed as dist

from ..context import Carrier, Tensor
from ..error import Error, Status
from ..plan import DType, Plan, Use

DTYPES = {torch.float32: DType.F32, torch.float16: DType.F16, torch.bfloat16: DType.BF16, torch.int32: DType.I32,
          torch.int64: DType.I64, torch.uint8: DType.U8}
TORCH_DTYPES = {dtype: of for of, dtype in DTYPES.items()}
TIMEOUT_S = 300.0
NOTICE_S = 2.0  # between looks for the notice of a rank that has failed


def describe(tensor: torch.Tensor, rows: Optional[int] = None) -> Tensor:
    """A contiguous tensor as libhep takes it: [rows][all else]; rows: its first dimension."""
    if tensor.device.type not in ("cpu", "cuda"):
        raise Error(Status.UNSUPPORTED, "a tensor on '%s': hep communicates memory of the host and of CUDA devices"
                    % tensor.device)
    device = -1 if tensor.device.type == "cpu" else tensor.device.index
    if tensor.dtype not in DTYPES:
        raise Error(Status.BAD_ARGUMENT, "a tensor of %s: plans know f32, f16 and bf16" % tensor.dtype)
    if not tensor.is_contiguous():
        raise Error(Status.BAD_ARGUMENT, "a tensor of shape %s that is not contiguous" % list(tensor.shape))
    count = tensor.shape[0] if rows is None else rows
    cols = tensor.numel() // count if count else int(tensor.shape[1:].numel())
    return Tensor(tensor.data_ptr(), count, cols, DTYPES[tensor.dtype], device=device)


def check_world(plan: Plan, group: Optional[dist.ProcessGroup]) -> tuple[int, int]:
    """This rank and the number of ranks; they have to be the plan's."""
    if not dist.is_available() or not dist.is_initialized():
        raise Error(Status.BAD_CALL, "torch.distributed is not initialised: call init_process_group first, under "
                    "torchrun or mpirun")
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    if ranks != plan.ranks:
        raise Error(Status.BAD_PLAN, "the plan is for %d ranks, the process group has %d: launch as many, or compile "
                    "for this cluster" % (plan.ranks, ranks), rank)
    return rank, ranks


class ProcessGroups:
    """The plan's groups as process groups, one for each use of a group: uses are concurrent. Collective: all ranks of
    `group` (None: the world) create it.

    >>> groups = hep.torch.ProcessGroups(plan)
    >>> for of in groups.crossed(layer=0, use=hep.Use.GATHER):
    ...     dist.all_gather_into_tensor(experts, mine, group=of)
    """

    def __init__(self, plan: Plan, group: Optional[dist.ProcessGroup] = None, backend: Optional[str] = None,
                 timeout_s: float = TIMEOUT_S) -> None:
        self.plan = plan
        self.rank, _ = check_world(plan, group)
        self._groups: dict[tuple[int, Use], Any] = {}
        for planned in plan.groups:
            for use in Use:
                if use not in planned.uses:
                    continue
                for ranks in planned.sets:
                    made = dist.new_group([global_rank(group, rank) for rank in ranks], backend=backend,
                                          timeout=timedelta(seconds=timeout_s))
                    if self.rank in ranks:
                        self._groups[planned.index, use] = made

    def get(self, index: int, use: Use) -> dist.ProcessGroup:
        """This rank's process group for a use of Plan.groups[index]."""
        if (index, use) not in self._groups:
            raise Error(Status.BAD_ARGUMENT, "the plan has no group %d for %s" % (index, use.name))
        return self._groups[index, use]

    def crossed(self, layer: int, use: Use) -> list[dist.ProcessGroup]:
        """Those that a layer's tokens (EXCHANGE), experts (GATHER) or gradients (RETURN) cross, in this order."""
        return [self.get(group.index, use) for group in self.plan.crossings(layer, use)]

    def close(self) -> None:
        """Destroys the process groups."""
        for group in self._groups.values():
            dist.destroy_process_group(group)
        self._groups.clear()


def global_rank(group: Optional[dist.ProcessGroup], rank: int) -> int:
    """A rank of the group as torch.distributed counts it."""
    return rank if group is None else dist.getglobal_rank(group, rank)


def _view(address: int, count: int) -> torch.Tensor:
    """Bytes of the library's; nothing is copied."""
    if count == 0:
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer((ctypes.c_uint8 * count).from_address(address), dtype=torch.uint8)


class _Channel:
    def __init__(self, group: dist.ProcessGroup, places: list[int], own: int) -> None:
        self.group = group
        self.own = own
        self.places = places  # of members among the group's ranks, which ascend
        self.ascends = places == sorted(places)

    def to_group(self, counts: Sequence[int]) -> list[int]:
        """Members' numbers in the order of the group's ranks."""
        by_rank = [0] * len(counts)
        for member, place in enumerate(self.places):
            by_rank[place] = counts[member]
        return by_rank

    def permute(self, members: torch.Tensor, counts: Sequence[int], back: bool = False) -> torch.Tensor:
        """Pieces in the order of members become pieces in the order of ranks, or back."""
        of_members = list(range(len(counts)))
        of_ranks = sorted(of_members, key=lambda member: self.places[member])
        before, after = (of_ranks, of_members) if back else (of_members, of_ranks)
        pieces = dict(zip(before, members.split([counts[member] for member in before])))
        return torch.cat([pieces[member] for member in after])


class GroupCarrier(Carrier):
    """Carries libhep's bytes over torch.distributed: a process group of host memory (gloo) per channel."""

    def __init__(self, group: Optional[dist.ProcessGroup] = None, timeout_s: float = TIMEOUT_S) -> None:
        self._parent = group
        self._timeout = timedelta(seconds=timeout_s)
        self._channels: dict[int, _Channel] = {}
        GroupCarrier._made += 1  # all ranks of a group make theirs in one order
        self._notice = "hep/%s/%d" % (getattr(group, "group_name", "world"), GroupCarrier._made)
        self._store = dist.distributed_c10d._get_default_store()

    _made = 0

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """torch has no exception of its own for a time-out, and none that says why another rank broke off."""
        try:
            yield
        except RuntimeError as error:
            with contextlib.suppress(RuntimeError):
                if self._store.check([self._notice]):
                    raise ConnectionError(self._store.get(self._notice).decode(errors="replace")) from error
            if re.search(r"timed? ?out", str(error), re.IGNORECASE):
                raise TimeoutError(str(error)) from error
            raise

    def open(self, channel: int, ranks: list[int], own: int) -> None:
        with self._explained():
            self._open(channel, ranks, own)

    def exchange(self, channel: int, send: int, send_bytes: list[int], recv: int, recv_bytes: list[int]) -> None:
        with self._explained():
            self._exchange(channel, send, send_bytes, recv, recv_bytes)

    def all_gather(self, channel: int, own: int, all_: int, count: int) -> None:
        with self._explained():
            self._all_gather(channel, own, all_, count)

    def _open(self, channel: int, ranks: list[int], own: int) -> None:
        all_ranks = [global_rank(self._parent, rank) for rank in ranks]
        group = dist.new_group(all_ranks, backend="gloo", timeout=self._timeout, use_local_synchronization=True)
        ascending = sorted(all_ranks)
        self._channels[channel] = _Channel(group, [ascending.index(rank) for rank in all_ranks], own)

    def _exchange(self, channel: int, send: int, send_bytes: list[int], recv: int, recv_bytes: list[int]) -> None:
        of = self._channels[channel]
        sent, received = _view(send, sum(send_bytes)), _view(recv, sum(recv_bytes))
        if of.ascends:
            self._wait(dist.all_to_all_single(received, sent, recv_bytes, send_bytes, group=of.group, async_op=True))
            return
        arrived = torch.empty_like(received)
        self._wait(dist.all_to_all_single(arrived, of.permute(sent, send_bytes), of.to_group(recv_bytes),
                                          of.to_group(send_bytes), group=of.group, async_op=True))
        received.copy_(of.permute(arrived, recv_bytes, back=True))

    def _all_gather(self, channel: int, own: int, all_: int, count: int) -> None:
        of = self._channels[channel]
        pieces = [_view(all_ + member * count, count) for member in range(len(of.places))]
        given = _view(own, count)
        if all_ <= own < all_ + count * len(of.places):
            given = given.clone()
        by_rank: list[Any] = [None] * len(pieces)
        for member, place in enumerate(of.places):
            by_rank[place] = pieces[member]
        self._wait(dist.all_gather(by_rank, given, group=of.group, async_op=True))

    def _wait(self, work: Any) -> None:
        """Until it is done. Connections that break are noticed at once; a peer that failed elsewhere by its notice."""
        end_s = time.monotonic() + self._timeout.total_seconds()
        while True:
            try:
                work.wait(timeout=timedelta(seconds=NOTICE_S))
                return
            except RuntimeError:
                if work.is_completed() or time.monotonic() > end_s + NOTICE_S or self._store.check([self._notice]):
                    if not work.is_completed():
                        self._break_off(work)
                    raise

    def _break_off(self, work: Any) -> None:
        """Its memory is the library's: nothing may arrive there any more."""
        self._abort_groups()
        with contextlib.suppress(RuntimeError):
            work.wait(timeout=timedelta(seconds=NOTICE_S))

    def abort(self, why: str) -> None:
        with contextlib.suppress(RuntimeError):
            self._store.compare_set(self._notice, "", "rank %d: %s" % (dist.get_rank(self._parent), why))
        self._abort_groups()

    def _abort_groups(self) -> None:
        for channel in self._channels.values():
            backend = channel.group._get_backend(torch.device("cpu"))
            if hasattr(backend, "abort"):
                backend.abort()

    def close(self) -> None:
        """Destroys the process groups."""
        for channel in self._channels.values():
            dist.destroy_process_group(channel.group)
        self._channels.clear()
