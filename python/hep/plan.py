"""Plans: what hepc made, loaded and verified, and everything they say."""
from __future__ import annotations

import ctypes
import enum
import os
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Union

from . import _native
from .error import Error, Status, check

_lib = _native.lib


class DType(enum.IntEnum):
    """Elements of tensors; hep_dtype of hep.h."""

    F32 = 0
    F16 = 1
    BF16 = 2
    I32 = 3
    I64 = 4
    U8 = 5


class Dispatch(enum.IntEnum):
    NAIVE = 0  #: a token is sent once per expert
    DEDUP = 1  #: once per destination


class Codec(enum.IntEnum):
    """How weights travel."""

    DENSE = 0
    SR = 1
    DELTA = 2
    SIGN = 3
    Q4 = 4


class GradientCodec(enum.IntEnum):
    """How gradients of gathered weights go home."""

    DENSE = 0
    TOPK = 1
    Q4 = 2
    TERNARY = 3


class RowFormat(enum.IntEnum):
    """In what token rows travel."""

    FULL = 0
    FP8 = 1
    INT8 = 2
    INT4 = 3


class GroupKind(enum.IntEnum):
    EXCHANGE = 0
    GATHER = 1
    LEVEL = 2
    WORLD = 3


class Use(enum.IntFlag):
    """What a group is for. Uses of one group are concurrent: a communicator each."""

    EXCHANGE = 1
    GATHER = 2
    RETURN = 4


@dataclass(frozen=True)
class Level:
    """A level of the cluster, outermost first."""

    name: str
    count: int  #: workers per parent
    bandwidth_bytes_per_s: float
    latency_s: float


@dataclass(frozen=True)
class Layer:
    """An MoE layer. Times are predicted, of an iteration."""

    index: int  #: among MoE layers
    model_layer: int  #: among all layers
    domain: tuple[int, ...]  #: per level, workers that share experts by gathering; 1: tokens travel
    own: int  #: experts that a rank owns; 0: shares are no whole experts
    gathered: int  #: experts that a rank holds once they are gathered
    hops: int  #: levels that rows cross
    gathers: int  #: levels that experts cross
    regather: bool  #: experts are dropped after the forward pass and gathered again
    once: int  #: of these, what came over so many outermost levels is kept
    own_elements: int  #: of a rank's share, with padding
    gather_s: float
    exchange_s: float
    return_s: float


@dataclass(frozen=True)
class Group:
    """Sets of ranks that meet in steps of the plan, each in the order of its members."""

    index: int
    kind: GroupKind
    level: int  #: -1 of the world
    domain: int
    uses: Use
    sets: tuple[tuple[int, ...], ...]

    def of(self, rank: int) -> tuple[int, ...]:
        """The set that a rank is in."""
        return next(ranks for ranks in self.sets if rank in ranks)


@dataclass(frozen=True)
class Traffic:
    """Bytes that a rank sends over a level in an iteration: planned, or counted."""

    exchange: float  #: rows of tokens and their gradients, `padding` among them
    routing: float
    padding: float
    gather: float
    reduce: float
    dense_gather: float
    dense_reduce: float


@dataclass(frozen=True)
class Share:
    """Elements of a layer's experts, laid one after another, that a rank owns."""

    first: int
    count: int


def _members(record: Any, dataclass_of: Any, **more: Any) -> Any:
    names = [field.name for field in fields(dataclass_of)]
    return dataclass_of(**{name: more[name] if name in more else getattr(record, name) for name in names})


class Plan:
    """A plan, loaded and verified. Ranks are those of processes, 0 to ranks - 1, in the order of launching.

    >>> plan = hep.Plan.load("laptop.hepb")
    >>> plan.ranks, [layer.domain for layer in plan.layers]
    (8, [(1, 2), (1, 2), (1, 2)])
    """

    def __init__(self, handle: int) -> None:
        """Takes over a handle of libhep; use load or parse."""
        self._handle: Any = handle
        self._facts = _native.FactsRecord()
        check(_lib.hep_plan_facts(handle, self._facts))

    @classmethod
    def load(cls, path: Union[str, "os.PathLike[str]"]) -> "Plan":
        """Reads a file that hepc wrote, binary (.hepb) or text (.ir), and verifies it."""
        handle = ctypes.c_void_p()
        check(_lib.hep_plan_read(os.fsencode(path), ctypes.byref(handle)))
        assert handle.value is not None
        return cls(handle.value)

    @classmethod
    def parse(cls, content: bytes) -> "Plan":
        """The same of bytes in memory."""
        handle = ctypes.c_void_p()
        check(_lib.hep_plan_parse(content, len(content), ctypes.byref(handle)))
        assert handle.value is not None
        return cls(handle.value)

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        if handle:
            _lib.hep_plan_free(handle)

    def __repr__(self) -> str:
        return "<hep.Plan %016x: %d ranks, %d MoE layers of %d experts>" % (self.digest, self.ranks, self.moe_layers,
                                                                           self.experts)

    def __copy__(self) -> "Plan":
        return self

    def __deepcopy__(self, memo: Any) -> "Plan":
        return self

    # ---- facts

    @property
    def digest(self) -> int:
        """A number of the content, the same on all ranks."""
        return int(_lib.hep_plan_digest(self._handle))

    @property
    def ranks(self) -> int:
        return int(self._facts.ranks)

    @property
    def moe_layers(self) -> int:
        """Layers with experts, which functions count from 0."""
        return int(self._facts.moe_layers)

    @property
    def model_layers(self) -> int:
        """All layers of the model."""
        return int(self._facts.layers)

    @property
    def hidden(self) -> int:
        return int(self._facts.hidden)

    @property
    def inner(self) -> int:
        return int(self._facts.inner)

    @property
    def experts(self) -> int:
        return int(self._facts.experts)

    @property
    def top_k(self) -> int:
        return int(self._facts.top_k)

    @property
    def dtype(self) -> DType:
        """Of rows and weights."""
        return DType(self._facts.dtype)

    @property
    def training(self) -> bool:
        """Whether the plan has a backward pass."""
        return bool(self._facts.training)

    @property
    def dispatch(self) -> Dispatch:
        return Dispatch(self._facts.dispatch)

    @property
    def padded(self) -> bool:
        """Whether messages have one size, whatever is sent."""
        return bool(self._facts.padded)

    @property
    def capacity(self) -> float:
        """Tokens of a rank that choose an expert, over the balanced number; 0: no limit."""
        return float(self._facts.capacity)

    @property
    def codec(self) -> Codec:
        """Of experts that migrate."""
        return Codec(self._facts.codec)

    @property
    def codec_ratio(self) -> float:
        return float(self._facts.codec_ratio)

    @property
    def gradient_codec(self) -> GradientCodec:
        """Of their gradients."""
        return GradientCodec(self._facts.gradient)

    @property
    def gradient_ratio(self) -> float:
        return float(self._facts.gradient_ratio)

    @property
    def dense_codec(self) -> Codec:
        return Codec(self._facts.dense_codec)

    @property
    def dense_gradient_codec(self) -> GradientCodec:
        return GradientCodec(self._facts.dense_gradient)

    @property
    def row_formats(self) -> tuple[RowFormat, ...]:
        """Of rows to experts, of results, of gradients of rows, of gradients of results."""
        return tuple(RowFormat(of) for of in self._facts.row_formats)

    @property
    def whole_iterations(self) -> int:
        """So many first iterations in which packets hold whole values."""
        return int(self._facts.whole_iterations)

    @property
    def micro_batches(self) -> int:
        """Of an iteration."""
        return int(self._facts.micro_batches)

    @property
    def recompute(self) -> bool:
        """Whether it was planned for activations that are computed again in the backward pass."""
        return bool(self._facts.recompute)

    @property
    def replica_levels(self) -> int:
        """Outermost levels over which every rank has all of its experts from the start."""
        return int(self._facts.replica_levels)

    @property
    def prefetch_slots(self) -> int:
        """Gathered layers at a time; 0: no limit."""
        return int(self._facts.prefetch_slots)

    @property
    def tokens(self) -> int:
        """Per rank and micro-batch, that the plan was made for."""
        return int(self._facts.tokens)

    @property
    def expert_elements(self) -> int:
        """Of one expert's weights."""
        return int(self._facts.expert_elements)

    @property
    def iteration_s(self) -> float:
        """Predicted, of all micro-batches."""
        return float(self._facts.iteration_s)

    @property
    def memory_bytes(self) -> float:
        """Of a rank, that hep-run takes."""
        return float(self._facts.memory_bytes)

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """Of the cluster, outermost first."""
        return tuple(self._level(index) for index in range(self._facts.levels))

    def _level(self, index: int) -> Level:
        record = _native.LevelRecord()
        check(_lib.hep_plan_level(self._handle, index, record))
        return _members(record, Level, name=record.name.decode())

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Those with experts."""
        return tuple(self._layer(index) for index in range(self.moe_layers))

    def _layer(self, index: int) -> Layer:
        record = _native.LayerRecord()
        check(_lib.hep_plan_layer(self._handle, index, record))
        return _members(record, Layer, index=index, domain=tuple(record.domain[:self._facts.levels]),
                        regather=bool(record.regather))

    # ---- placement

    def held(self, layer: int, rank: int) -> range:
        """Experts that a rank holds once they are gathered."""
        first, count = ctypes.c_int(), ctypes.c_int()
        check(_lib.hep_plan_held(self._handle, layer, rank, ctypes.byref(first), ctypes.byref(count)))
        return range(first.value, first.value + count.value)

    def share(self, layer: int, rank: int) -> Share:
        """Elements that a rank owns."""
        first, count = ctypes.c_int64(), ctypes.c_int64()
        check(_lib.hep_plan_owned(self._handle, layer, rank, ctypes.byref(first), ctypes.byref(count)))
        return Share(first.value, count.value)

    def owned(self, layer: int, rank: int) -> range:
        """Experts that a rank owns, where ranks own whole experts."""
        if not self.layers[layer].own:
            raise Error(Status.UNSUPPORTED, "ranks own pieces of experts in layer %d: Plan.share has their elements"
                        % layer)
        share = self.share(layer, rank)
        return range(share.first // self.expert_elements, (share.first + share.count) // self.expert_elements)

    def owner(self, layer: int, expert: int) -> int:
        """The first rank that owns an expert, or its first element."""
        rank = int(_lib.hep_plan_owner(self._handle, layer, expert))
        if rank < 0:
            self.share(layer, 0)  # says what is wrong with the layer
            raise Error(Status.BAD_ARGUMENT, "expert %d: the plan has %d" % (expert, self.experts))
        return rank

    def rows_bound(self, layer: int, tokens: int) -> int:
        """Most rows that a rank can receive from one dispatch when no rank has more than so many tokens."""
        bound = int(_lib.hep_plan_rows_bound(self._handle, layer, tokens))
        if bound < 0:
            self.share(layer, 0)
            raise Error(Status.BAD_ARGUMENT, "%d tokens" % tokens)
        return bound

    # ---- groups and traffic

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """In the order in which all ranks create communicators for them."""
        return tuple(self._group(index) for index in range(self._facts.groups))

    def _group(self, index: int) -> Group:
        record = _native.GroupRecord()
        check(_lib.hep_plan_group(self._handle, index, record))
        ranks = (ctypes.c_int32 * record.size)()
        sets = []
        for member in range(record.count):
            check(_lib.hep_plan_group_ranks(self._handle, index, member, ranks))
            sets.append(tuple(ranks))
        return Group(index, GroupKind(record.kind), record.level, record.domain, Use(record.uses), tuple(sets))

    def crossings(self, layer: int, use: Use) -> tuple[Group, ...]:
        """Groups that a layer's tokens cross (Use.EXCHANGE), its experts (GATHER) or their gradients (RETURN), in
        this order."""
        of = self.layers[layer]
        kind = GroupKind.EXCHANGE if use == Use.EXCHANGE else GroupKind.GATHER
        crossed = []
        for level, (domain, at) in enumerate(zip(of.domain, self.levels)):
            if domain < at.count if use == Use.EXCHANGE else level >= self.replica_levels and domain > 1:
                crossed += [group for group in self.groups if (group.kind, group.level, group.domain)
                            == (kind, level, domain) and use in group.uses]
        return tuple(reversed(crossed) if use == Use.RETURN else crossed)

    def traffic(self, level: int) -> Traffic:
        """Bytes that the plan expects a rank to send over a level in an iteration."""
        record = _native.TrafficRecord()
        check(_lib.hep_plan_traffic(self._handle, level, record))
        return _members(record, Traffic)
