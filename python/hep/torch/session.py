"""A plan in a training: which experts' weights this rank has, when they are gathered, and how their gradients return.

Passes. A forward pass begins with the model's forward, or with the first layer that is called; a backward pass with the
first of its nodes. What is computed again inside a backward pass (activation checkpointing) belongs to that. Every rank
calls the same layers in the same order: all decisions here follow from what the caller does on every rank alike.
"""
from __future__ import annotations

import contextlib
import os
import socket
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, Optional

import torch
import torch.distributed as dist
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from ..context import BACKWARD, DROP, WEIGHTS_SAME, Communicator, Context, Tensor, Times, nccl_id
from ..error import Error, Status
from ..plan import Plan, Traffic
from .groups import TIMEOUT_S, TORCH_DTYPES, GroupCarrier, check_world, describe


def in_backward() -> bool:
    """Whether autograd is computing gradients in this thread."""
    return torch._C._current_graph_task_id() != -1


class ExpertShards:
    """The weights of one layer's experts: what this rank owns, as parameters, and memory for what it gathers.

    names: of the parameters, each [experts][...] in the whole model. `parameters` are those of the rank: of every name
    the experts that it owns; or, where shares are no whole experts, one flat piece of all.
    """

    def __init__(self, plan: Plan, layer: int, rank: int, weights: Mapping[str, torch.Tensor]) -> None:
        self.plan, self.layer, self.rank = plan, layer, rank
        self.of = plan.layers[layer]
        self.names = list(weights)
        self.shapes = [weight.shape[1:] for weight in weights.values()]
        self._check(weights)
        frozen = any(isinstance(weight, nn.Parameter) and not weight.requires_grad for weight in weights.values())
        self.parameters = [nn.Parameter(self._deal(list(weights.values()), index), requires_grad=not frozen)
                           for index in range(len(self.names) if self.of.own else 1)]
        self.full: list[torch.Tensor] = []
        self.grads: list[torch.Tensor] = []
        self.summed: Optional[list[torch.Tensor]] = None  # gradients of gathered experts that were not returned yet

    def _check(self, weights: Mapping[str, torch.Tensor]) -> None:
        plan, dtype = self.plan, TORCH_DTYPES[self.plan.dtype]
        for name, weight in weights.items():
            if weight.dim() < 2 or weight.shape[0] != plan.experts:
                raise Error(Status.BAD_PLAN, "'%s' of layer %d has shape %s: the plan has %d experts"
                            % (name, self.of.model_layer, list(weight.shape), plan.experts), self.rank)
            if weight.dtype != dtype:
                raise Error(Status.BAD_PLAN, "'%s' of layer %d is %s, the plan is for %s"
                            % (name, self.of.model_layer, weight.dtype, dtype), self.rank)
        elements = sum(shape.numel() for shape in self.shapes)
        if elements != plan.expert_elements:
            raise Error(Status.BAD_PLAN, "an expert of layer %d has %d elements, the plan's have %d: it was made for "
                        "another model" % (self.of.model_layer, elements, plan.expert_elements), self.rank)

    def _deal(self, weights: list[torch.Tensor], index: int) -> torch.Tensor:
        """This rank's share of weights that are there whole."""
        if self.of.own:
            owned = self.plan.owned(self.layer, self.rank)
            return weights[index].detach()[owned.start:owned.stop].clone()
        share = self.plan.share(self.layer, self.rank)
        experts = torch.cat([weight.detach().reshape(self.plan.experts, -1) for weight in weights], 1).flatten()
        piece = experts.new_zeros(self.of.own_elements)
        piece[:share.count] = experts[share.first:share.first + share.count]
        return piece

    def deal(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Takes this rank's share of whole weights."""
        given = [weights[name].to(self.parameters[0].dtype) for name in self.names]
        with torch.no_grad():
            for index, parameter in enumerate(self.parameters):
                parameter.copy_(self._deal(given, index))

    def gather(self, tensors: list[torch.Tensor], group: Optional[dist.ProcessGroup]) -> dict[str, torch.Tensor]:
        """What all ranks own, whole: of parameters, of their gradients, or of what an optimizer keeps of them.
        Collective."""
        whole = {}
        parts = [[torch.empty_like(tensor) for _ in range(self.plan.ranks)] for tensor in tensors]
        for tensor, pieces in zip(tensors, parts):
            dist.all_gather(pieces, tensor.detach().contiguous(), group=group)
        shares = [self.plan.share(self.layer, rank) for rank in range(self.plan.ranks)]
        if self.of.own:
            for name, shape, pieces in zip(self.names, self.shapes, parts):
                whole[name] = pieces[0].new_empty([self.plan.experts, *shape])
                for share, piece in zip(shares, pieces):
                    first = share.first // self.plan.expert_elements
                    whole[name][first:first + self.of.own] = piece
            return whole
        experts = parts[0][0].new_empty(self.plan.experts * self.plan.expert_elements)
        for share, piece in zip(shares, parts[0]):
            experts[share.first:share.first + share.count] = piece[:share.count]
        columns = experts.view(self.plan.experts, -1).split([shape.numel() for shape in self.shapes], 1)
        for name, shape, piece in zip(self.names, self.shapes, columns):
            whole[name] = piece.reshape(self.plan.experts, *shape)
        return whole

    # ---- memory

    @property
    def aliases(self) -> bool:
        """Nothing is gathered: what is owned serves."""
        return bool(self.of.own) and self.of.own == self.of.gathered

    def allocate(self, storage: Optional[torch.Tensor]) -> None:
        """Memory for gathered experts: of its own, or the beginning of what layers share."""
        count, self.grads = self.of.gathered, [torch.zeros_like(own) for own in self.parameters]
        if self.aliases:
            self.full = [parameter.detach() for parameter in self.parameters]
            return
        flat = storage if storage is not None else self.parameters[0].detach().new_empty(self.full_elements)
        sizes = [count * shape.numel() for shape in self.shapes]
        pieces = flat[:sum(sizes)].split(sizes)
        self.full = [piece.view(count, *shape) for piece, shape in zip(pieces, self.shapes)]

    @property
    def full_elements(self) -> int:
        return self.of.gathered * self.plan.expert_elements

    def described(self, tensors: list[torch.Tensor]) -> list[Tensor]:
        """Owned tensors for the library: [own][...], or one piece [1][elements]."""
        return [describe(tensor, None if self.of.own else 1) for tensor in tensors]

    def addresses(self) -> list[int]:
        return [tensor.data_ptr() for tensor in self.parameters]


class Session:
    """A plan on torch.distributed. Collective: all ranks of `group` (None: the world) create it with the same plan.

    timeout_s: how long a collective waits for a rank that does not come. max_tokens: most tokens of a rank in one
    forward pass; 0: those of the plan. transport: "tcp" for connections of libhep's own, to rank 0 at MASTER_ADDR and
    between all ranks; "torch" for process groups of torch.distributed, over gloo, which take twice as long for a layer;
    "auto" for the first where it works, else the second; "nccl" for tensors on the process's current CUDA device: experts'
    weights and all that layers are called with, in order with the current stream. gradient_scale: what sums of experts' gradients over ranks are
    multiplied by; None: 1 / ranks, which is the mean that DistributedDataParallel makes of other gradients. drop: choices
    of experts beyond the plan's capacity are dropped; else they are an error where messages are padded.
    """

    def __init__(self, plan: Plan, group: Optional[dist.ProcessGroup] = None, *, timeout_s: float = TIMEOUT_S,
                 max_tokens: int = 0, gradient_scale: Optional[float] = None, transport: str = "auto",
                 drop: bool = False) -> None:
        self.plan, self.group = plan, group
        self.dispatch_flags = DROP if drop else 0
        self.rank, self.ranks = check_world(plan, group)
        self.gradient_scale = 1 / self.ranks if gradient_scale is None else gradient_scale
        self._carrier: Optional[GroupCarrier] = None
        self.context = self._connect(transport, timeout_s, max_tokens)
        self.shards: list[Optional[ExpertShards]] = [None] * plan.moe_layers
        self._bound: list[Optional[list[int]]] = [None] * plan.moe_layers
        self._changed = True  # weights, since they were gathered
        self._waiting: list[int] = []  # layers of the pass that were not used yet, in the pass's order
        self._backward = False  # the pass is a backward pass
        self._synchronises = True
        self._in_flight: list[torch.Tensor] = []
        self._returned: set[int] = set()
        self.watch: Optional[Watch] = None  # told what forward passes do (profile)
        _watch_optimizers(self)

    def _connect(self, transport: str, timeout_s: float, max_tokens: int) -> Context:
        if transport not in ("auto", "torch", "tcp", "nccl"):
            raise Error(Status.BAD_ARGUMENT, "transport '%s': expected 'auto', 'torch', 'tcp' or 'nccl'" % transport,
                        self.rank)
        if transport == "nccl":
            return self._over_nccl(_Notes(self.group, self.rank, timeout_s), max_tokens)
        if transport != "torch":
            notes = _Notes(self.group, self.rank, timeout_s)
            place = self._meeting_place(notes)
            if place is None and transport == "tcp":
                raise Error(Status.UNSUPPORTED, "transport 'tcp' needs the host of rank 0 in MASTER_ADDR, and is of all "
                            "processes, or of a group with rank 0", self.rank)
            context = self._over_tcp(place, notes, max_tokens, transport == "auto") if place else None
            if context is not None:
                return context
        self._carrier = GroupCarrier(self.group, timeout_s)
        return Context(self.plan, Communicator.carried(self.rank, self.ranks, self._carrier, timeout_s), max_tokens)

    def _over_nccl(self, notes: "_Notes", max_tokens: int) -> Context:
        if not torch.cuda.is_available():
            raise Error(Status.UNSUPPORTED, "transport 'nccl' is for CUDA devices, and PyTorch sees none", self.rank)
        device = torch.cuda.current_device()
        if self.rank == 0:
            notes.tell("nccl", nccl_id().hex())
        os.environ.setdefault("NCCL_LAUNCH_ORDER_IMPLICIT", "1")
        id_ = bytes.fromhex(notes.hear("nccl", 0))
        comm = Communicator.nccl(self.rank, self.ranks, id_, device, notes.timeout_s)
        context = Context(self.plan, comm, max_tokens, lambda: torch.cuda.current_stream(device).cuda_stream)
        comm.close()
        return context

    def _meeting_place(self, notes: "_Notes") -> Optional[tuple[str, int, bytes]]:
        """Where ranks may connect to rank 0: its host, a port that is free there, and a secret. Collective; None, on all
        of them, where the host is not known."""
        host, place = os.environ.get("MASTER_ADDR"), "unknown"
        if self.rank == 0:
            if host and dist.get_rank() == 0:
                with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as free:
                    free.bind(("", 0))
                    place = "%d %s %s" % (free.getsockname()[1], os.urandom(32).hex(), host)
            notes.tell("place", place)
        else:
            place = notes.hear("place", 0)
        if place == "unknown":
            return None
        port, secret, host = place.split(" ")
        return host, int(port), bytes.fromhex(secret)

    def _over_tcp(self, place: tuple[str, int, bytes], notes: "_Notes", max_tokens: int,
                  may_fail: bool) -> Optional[Context]:
        """None, on all ranks, if they cannot connect and may fail to; what fails for other reasons is raised."""
        context, failure = None, None
        try:
            comm = Communicator.tcp_at(self.rank, self.ranks, *place, notes.timeout_s)
            context = Context(self.plan, comm, max_tokens)
            comm.close()
        except Error as error:
            if not may_fail or error.status != Status.COMM:
                raise
            failure = error
        if not may_fail:
            return context
        notes.tell("outcome", "connected" if context else "alone")
        outcomes = [notes.hear("outcome", rank) for rank in range(self.ranks)]
        if "alone" not in outcomes:
            return context
        if context is not None:
            context.close()
        if failure is not None:
            warnings.warn("no connections of hep's own, rows travel over torch.distributed: %s" % failure, stacklevel=4)
        return None

    # ---- weights

    def add(self, layer: int, weights: Mapping[str, torch.Tensor]) -> ExpertShards:
        """Takes this rank's share of an MoE layer's experts, which are there whole: [experts][...] by name."""
        if self.shards[layer] is not None:
            raise Error(Status.BAD_CALL, "layer %d has its experts" % layer, self.rank)
        shards = ExpertShards(self.plan, layer, self.rank, weights)
        self.shards[layer] = shards
        return shards

    def parameters(self) -> Iterator[nn.Parameter]:
        """Experts' weights that this rank owns."""
        for shards in self.shards:
            if shards:
                yield from shards.parameters

    def weights_changed(self) -> None:
        """Experts have new weights: they are gathered again for the next pass. Called by itself after every step of a
        torch optimizer that has one of the parameters; to be called, by all ranks, after other changes."""
        self._changed = True

    def _shards(self, layer: int) -> ExpertShards:
        shards = self.shards[layer] if 0 <= layer < len(self.shards) else None
        if shards is None:
            raise Error(Status.BAD_CALL, "layer %d has no experts yet: Session.add" % layer, self.rank)
        return shards

    def _allocate(self) -> None:
        """Layers that are dropped after use share as much memory as the plan gathers at a time."""
        layers = [self._shards(layer) for layer in range(self.plan.moe_layers)]
        slots, drops = self.plan.prefetch_slots, [of.of.regather or not self.plan.training for of in layers]
        shared: list[Optional[torch.Tensor]] = [None] * len(layers)
        if 0 < slots < len(layers) and all(drops):
            for slot in range(slots):
                largest = max(0 if of.aliases else of.full_elements for of in layers[slot::slots])
                storage = layers[slot].parameters[0].detach().new_empty(largest)
                shared[slot::slots] = [storage] * len(layers[slot::slots])
        for shards, storage in zip(layers, shared):
            shards.allocate(storage)

    def _bind(self) -> None:
        if not all(shards and shards.full for shards in self.shards):
            self._allocate()
        for layer, shards in enumerate(self.shards):
            assert shards is not None
            if self._bound[layer] == shards.addresses():
                continue
            if shards.aliases:
                shards.full = [parameter.detach() for parameter in shards.parameters]
            grads = shards.described(shards.grads) if self.plan.training else None
            self.context.bind(layer, shards.described([of.detach() for of in shards.parameters]), grads,
                              [describe(full) for full in shards.full])
            self._bound[layer] = shards.addresses()
            self._changed = True

    # ---- passes

    def begin(self) -> None:
        """Begins a forward pass: experts of all layers are gathered ahead of their use. Collective; called by itself."""
        self._drain()
        self._backward = False
        self._bind()
        self.context.begin(0 if self._changed else WEIGHTS_SAME)
        self._changed = False
        self._waiting = list(range(self.plan.moe_layers))

    def _begin_backward(self) -> None:
        self._drain()
        self.context.begin(BACKWARD)
        self._waiting = list(range(self.plan.moe_layers))[::-1]

    def _drain(self) -> None:
        """What was begun is waited for, whoever needs it."""
        flags = BACKWARD if self._backward else 0
        for layer in self._waiting:
            self.context.gathered(layer, flags)
            self.context.used(layer, flags)
        self._waiting = []

    def enter(self, layer: int) -> list[torch.Tensor]:
        """A layer's experts, gathered: before their use, in either pass."""
        shards = self._shards(layer)
        if in_backward() and not self._backward:
            self._drain()
            self._backward = True
            torch.autograd.Variable._execution_engine.queue_callback(self._end_backward)
        if layer not in self._waiting:
            if self._backward:
                self._begin_backward()
            else:
                self.begin()
        self.context.gathered(layer, BACKWARD if self._backward else 0)
        return shards.full

    def leave(self, layer: int) -> None:
        """After the layer's last use in the pass. What is computed again in a backward pass does not end there."""
        if layer in self._waiting:
            self.context.used(layer, BACKWARD if self._backward else 0)
            self._waiting.remove(layer)

    def take_gradients(self, layer: int, full: list[torch.Tensor]) -> None:
        """Gradients of gathered experts, of one micro-batch: summed, and on their way home with those of the last."""
        shards = self._shards(layer)
        if shards.summed is None:
            shards.summed = _private(full)
        else:
            for sum_, gradient in zip(shards.summed, full):
                sum_.add_(gradient)
        if not self._synchronises:
            return
        if layer not in self._returned:
            self._returned.add(layer)
            for parameter, grad in zip(shards.parameters, shards.grads):
                if parameter.grad is None or parameter.grad.data_ptr() != grad.data_ptr():
                    grad.zero_()
        self._in_flight += shards.summed
        sent, shards.summed = shards.summed, None
        self.context.return_gradients(layer, [describe(gradient) for gradient in sent], self.gradient_scale)

    def _end_backward(self) -> None:
        self._drain()
        self._backward = False
        if not self._returned:
            return
        self.context.finish()
        self._in_flight.clear()
        for layer in sorted(self._returned):
            shards = self._shards(layer)
            for parameter, grad in zip(shards.parameters, shards.grads):
                if parameter.grad is None:
                    parameter.grad = grad
                elif parameter.grad.data_ptr() != grad.data_ptr():
                    parameter.grad.add_(grad)
        self._returned.clear()

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Of all micro-batches of an iteration but the last: gradients of experts are summed here, and travel once."""
        before, self._synchronises = self._synchronises, False
        try:
            yield
        finally:
            self._synchronises = before

    # ---- what codecs remember

    def _state_key(self, rank: int) -> str:
        return "hep.codecs/%016x/%d" % (self.plan.digest, rank)

    def codec_state(self) -> dict[str, torch.Tensor]:
        """What this rank remembers of compressed weights and gradients, to be saved beside the weights, by a name that no
        other rank or plan has; empty where the plan compresses nothing. Between steps. Not collective."""
        self._drain()
        state = torch.empty(self.context.state_bytes, dtype=torch.uint8)
        if state.numel() == 0:
            return {}
        self.context.save_state(state.data_ptr(), state.numel())
        return {self._state_key(self.rank): state}

    def load_codec_state(self, state: Optional[Mapping[str, torch.Tensor]] = None) -> bool:
        """Resumes with what codec_state gave. Where a rank does not find its own, or with None, all forget everything: the
        next packets hold whole values. Whether it was found. Collective."""
        size, own = self.context.state_bytes, (state or {}).get(self._state_key(self.rank))
        if size == 0:
            return False
        self._drain()
        found = torch.tensor([int(own is not None and own.numel() == size)],
                             device="cuda" if dist.get_backend(self.group) == "nccl" else "cpu")
        dist.all_reduce(found, dist.ReduceOp.MIN, group=self.group)
        self._changed = True
        if own is None or not found.item():
            self.context.load_state(0, 0)
            return False
        held = own.to("cpu", torch.uint8).contiguous()
        self.context.load_state(held.data_ptr(), size)
        return True

    # ---- the rest

    def count(self, reset: bool = False) -> tuple[list[Traffic], Times]:
        """Bytes that this rank sent per level, as the plan counts them, and where time went."""
        return self.context.count(reset)

    def close(self) -> None:
        """Frees what the library holds, and its process groups; all ranks are to be done with it."""
        self.context.close()
        if self._carrier is not None and not self.context.failed:  # else others may still be in them
            self._carrier.close()


class _Notes:
    """What ranks tell each other once, before they are connected: in torch's store, where nobody waits too long."""

    _made: "dict[str, int]" = {}  # of a group: all ranks make theirs in one order

    def __init__(self, group: Optional[dist.ProcessGroup], rank: int, timeout_s: float) -> None:
        name = getattr(group, "group_name", "world")
        self._made[name] = self._made.get(name, 0) + 1
        self._key, self.rank, self.timeout_s = "hep/tcp/%s/%d" % (name, self._made[name]), rank, timeout_s
        self._store = dist.distributed_c10d._get_default_store()

    def tell(self, what: str, note: str) -> None:
        self._store.set("%s/%s/%d" % (self._key, what, self.rank), note)

    def hear(self, what: str, rank: int) -> str:
        key = "%s/%s/%d" % (self._key, what, rank)
        try:
            self._store.wait([key], timedelta(seconds=self.timeout_s))
        except RuntimeError as error:
            raise Error(Status.TIMEOUT, "rank %d did not come for %g s" % (rank, self.timeout_s), self.rank,
                        peer=rank) from error
        return str(self._store.get(key).decode())


def _private(gradients: list[torch.Tensor]) -> list[torch.Tensor]:
    """Contiguous, and of nobody else: the library sums in them."""
    seen: set[int] = set()
    own = []
    for gradient in gradients:
        is_shared = gradient.data_ptr() in seen or not gradient.is_contiguous() or gradient._is_view()
        seen.add(gradient.data_ptr())
        own.append(gradient.clone(memory_format=torch.contiguous_format) if is_shared else gradient)
    return own


_watched: "weakref.WeakSet[Session]" = weakref.WeakSet()


def _stepped(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    updated = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for session in list(_watched):
        if any(id(parameter) in updated for parameter in session.parameters()):
            session.weights_changed()


def _watch_optimizers(session: Session) -> None:
    """Steps of optimizers change weights. Fused ones do so behind autograd's back: one hook, which stays, sees all."""
    global _is_watching
    if not _is_watching:
        register_optimizer_step_post_hook(_stepped)
        _is_watching = True
    _watched.add(session)


_is_watching = False

Watch = Callable[[int, torch.Tensor, Optional[float]], None]
Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, "dict[str, torch.Tensor]"], torch.Tensor]
