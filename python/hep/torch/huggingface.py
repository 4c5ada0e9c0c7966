"""Models of Hugging Face under a plan: their MoE blocks stay, with routers, shared experts and all else; the experts of
each become this rank's share, and rows travel to them."""
from __future__ import annotations

import contextlib
import contextvars
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Callable, Optional

import torch
import torch.distributed as dist
from torch import nn

from ..context import Times
from ..error import Error, Status
from ..plan import Plan, Traffic
from .balance import load_balancing_loss
from .groups import TIMEOUT_S, TORCH_DTYPES
from .layer import apply_experts
from .session import ExpertShards, Session


@dataclass(frozen=True)
class _Family:
    """How a family of models names what plans know too."""

    experts: str  # class of a layer's experts, fused into parameters [experts, ...]
    count: str  # key of the configuration
    inner: str


_FAMILIES = {"mixtral": _Family("MixtralExperts", "num_local_experts", "intermediate_size"),
             "qwen3_moe": _Family("Qwen3MoeExperts", "num_experts", "moe_intermediate_size")}

# The model whose forward pass is running: its load-balancing loss is of all ranks.
_running: "contextvars.ContextVar[Optional[Parallel]]" = contextvars.ContextVar("hep_running", default=None)


# ---- what is patched, or refused -------------------------------------------------------------------------------


def _refuse(why: str) -> Error:
    return Error(Status.UNSUPPORTED, why)


def _find_family(model: nn.Module) -> _Family:
    config = getattr(model, "config", None)
    kind = getattr(config, "model_type", None)
    if kind is None:
        raise _refuse("%s is no model of transformers: build it of hep.torch.MoELayer" % type(model).__name__)
    if kind not in _FAMILIES:
        raise _refuse("models of the family '%s' are not supported, but %s: how they compute their experts was not "
                      "checked against hep; hep.torch.MoELayer takes experts of any kind"
                      % (kind, " and ".join(sorted(_FAMILIES))))
    if getattr(model, "_tp_size", None) or getattr(model, "_device_mesh", None) is not None:
        raise _refuse("the model is sharded by transformers (tp_plan): load it whole")
    if getattr(model, "is_quantized", False):
        raise _refuse("the model is quantised: experts travel in the precision that they are trained in")
    return _FAMILIES[kind]


def _find_experts(model: nn.Module, family: _Family) -> list[tuple[str, nn.Module]]:
    found = [(name, module) for name, module in model.named_modules() if type(module).__name__ == family.experts]
    if found:
        return found
    import transformers

    if int(transformers.__version__.split(".")[0]) < 5:
        raise _refuse("transformers %s keeps a module per expert: hep takes those of 5 and later"
                      % transformers.__version__)
    raise _refuse("the model has no %s" % family.experts)


def _kernel_of(experts: nn.Module) -> Callable[..., torch.Tensor]:
    """The computation that the model was configured to use, as a function of a module."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    forward = type(experts).forward
    eager = getattr(forward, "__wrapped__", None)
    if eager is None or not hasattr(experts, "is_transposed"):
        raise _refuse("%s does not take its computation from transformers' registry of experts' implementations"
                      % type(experts).__name__)
    for what, expected in (("is_transposed", False), ("has_bias", False), ("has_gate", True)):
        if getattr(experts, what) != expected:
            raise _refuse("%s: '%s' is %s" % (type(experts).__name__, what, getattr(experts, what)))
    return ALL_EXPERTS_FUNCTIONS.get_interface(experts.config._experts_implementation, eager)


def _weights_of(experts: nn.Module, name: str) -> dict[str, torch.Tensor]:
    weights = dict(experts.named_parameters())
    if any("." in of for of in weights) or list(experts.named_buffers()):
        raise _refuse("'%s' has more than its own parameters" % name)
    if len({parameter.requires_grad for parameter in weights.values()}) > 1:
        raise _refuse("'%s' is frozen in parts: all parameters of a layer's experts are trained, or none" % name)
    return weights


def _stand_in(experts: nn.Module, count: int, weights: Mapping[str, torch.Tensor]) -> Any:
    """The module, with other weights and another number of experts: what its computation is run on. An index that is
    `count` is padding."""
    proxy = object.__new__(type(experts))
    proxy.__dict__.update(experts.__dict__)
    proxy.__dict__.pop("forward", None)
    proxy.__dict__["_parameters"] = {}
    proxy.__dict__.update(weights)
    proxy.__dict__.update(num_experts=count, _is_expert_parallel=True)
    return proxy


def _check_computation(experts: nn.Module, name: str, kernel: Callable[..., torch.Tensor],
                       weights: Mapping[str, torch.Tensor], plan: Plan) -> None:
    """Runs the module as it is, and its computation on the last half of the experts, on random rows, of which those
    without such an expert are left out and the others come in another order: results are the same. No communication."""
    generator = torch.Generator().manual_seed(1)
    like = next(iter(weights.values()))
    rows = torch.randn(16, plan.hidden, generator=generator).to(like)
    index = torch.stack([torch.randperm(plan.experts, generator=generator)[:plan.top_k] for _ in range(16)])
    first = plan.experts // 2
    held = index >= first
    gate = torch.rand(16, plan.top_k, generator=generator).to(like) * held
    arrive = held.any(1).nonzero().flatten().flip(0)
    part = {of: weight.detach()[first:] for of, weight in weights.items()}
    count = plan.experts - first
    with torch.no_grad():
        expected = experts(rows, index, gate)[arrive]
        found = kernel(_stand_in(experts, count, part), rows[arrive], torch.where(held, index - first, count)[arrive],
                       gate[arrive])
    error = (found - expected).abs().max().item()
    bound = 4 * torch.finfo(like.dtype).eps * plan.top_k * max(expected.abs().max().item(), 1e-30)
    if not error <= max(bound, 1e-30):
        raise _refuse("'%s' computes its experts in another way than hep would: results differ by %g" % (name, error))


def _check_plan(plan: Plan, model: nn.Module, family: _Family, layers: int) -> None:
    config = model.config
    stated = [("hidden size", config.hidden_size, plan.hidden), ("experts", getattr(config, family.count), plan.experts),
              ("experts per token", config.num_experts_per_tok, plan.top_k),
              ("width of an expert", getattr(config, family.inner), plan.inner),
              ("layers with experts", layers, plan.moe_layers)]
    for what, of_model, of_plan in stated:
        if of_model != of_plan:
            raise Error(Status.BAD_PLAN, "the plan was made for another model: %s: %d, the model's %d"
                        % (what, of_plan, of_model))


def _check_alike(session: Session, model: nn.Module) -> None:
    """Every rank deals its own copy of the model, so all are to have the same."""
    with torch.no_grad():
        sums = torch.stack([value for parameter in model.parameters() for value in
                            (parameter.double().sum(), parameter.double().abs().sum())])
    gathered = [torch.empty_like(sums) for _ in range(session.ranks)]
    dist.all_gather(gathered, sums, group=session.group)
    for rank, other in enumerate(gathered):
        if not torch.equal(other, gathered[0]):
            raise Error(Status.COMM, "rank %d has other weights than rank 0: load the same checkpoint on all ranks, or "
                        "seed them alike" % rank, session.rank, peer=rank)


# ---- the model under a plan ------------------------------------------------------------------------------------


class Parallel:
    """A model whose experts are shared out. `model` is used as before; this has what a training does with all ranks.

    Gradients of experts are there after backward(), as means over ranks. Dense weights are alike on all ranks, and their
    gradients are to be averaged: `ddp` wraps the model in DistributedDataParallel, which leaves experts alone;
    `average_dense_gradients` is the plain way.
    """

    def __init__(self, model: nn.Module, session: Session, experts: dict[str, ExpertShards]) -> None:
        self.model, self.session, self._experts = model, session, experts
        self._own = {id(parameter) for shards in experts.values() for parameter in shards.parameters}

    @property
    def plan(self) -> Plan:
        return self.session.plan

    def _dense(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if id(parameter) not in self._own]

    def expert_names(self) -> list[str]:
        """Names of the parameters that differ from rank to rank."""
        return [name for name, parameter in self.model.named_parameters() if id(parameter) in self._own]

    # ---- training

    def ddp(self, **options: Any) -> nn.parallel.DistributedDataParallel:
        """The model in DistributedDataParallel, for its dense weights. Experts have their own way."""
        wrapper = nn.parallel.DistributedDataParallel
        wrapper._set_params_and_buffers_to_ignore_for_model(self.model, self.expert_names())
        return wrapper(self.model, process_group=self.session.group, **options)

    def average_dense_gradients(self) -> None:
        """Makes gradients of dense weights their mean over ranks. Collective; not with DistributedDataParallel."""
        for parameter in self._dense():
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad, group=self.session.group)
                parameter.grad /= self.session.ranks

    @contextlib.contextmanager
    def no_sync(self, ddp: Optional[nn.parallel.DistributedDataParallel] = None) -> Iterator[None]:
        """For all micro-batches of an iteration but the last: gradients are summed on this rank, and travel once."""
        with self.session.no_sync(), (ddp.no_sync() if ddp is not None else contextlib.nullcontext()):
            yield

    def weights_changed(self) -> None:
        """Experts' weights were changed by other than an optimizer of torch. By all ranks."""
        self.session.weights_changed()

    def clip_grad_norm_(self, max_norm: float) -> torch.Tensor:
        """torch.nn.utils.clip_grad_norm_ over the whole model: every rank gets the same norm. Collective."""
        squares = torch.zeros(1, dtype=torch.float64)
        for parameter in self.session.parameters():
            if parameter.grad is not None:
                squares += parameter.grad.double().square().sum()
        dist.all_reduce(squares, group=self.session.group)
        squares /= self._copies()
        for parameter in self._dense():
            if parameter.grad is not None:
                squares += parameter.grad.double().square().sum()
        norm = squares.sqrt()
        scale = float(torch.clamp(max_norm / (norm + 1e-6), max=1.0))
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(scale)
        return norm[0].float()

    def _copies(self) -> int:
        copies = 1
        for level in self.plan.levels[:self.plan.replica_levels]:
            copies *= level.count
        return copies

    # ---- checkpoints

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The model's, as if nothing was shared out: names, shapes and values. Collective; every rank gets all of it."""
        state = {name: value for name, value in self.model.state_dict().items() if name not in set(self.expert_names())}
        for prefix, shards in self._experts.items():
            for name, whole in shards.gather(list(shards.parameters), self.session.group).items():
                state["%s.%s" % (prefix, name)] = whole
        return state

    def gradients(self) -> dict[str, torch.Tensor]:
        """Gradients of experts, gathered from their owners, by the names of the whole model. Collective."""
        found = {}
        for prefix, shards in self._experts.items():
            own = [torch.zeros_like(of) if of.grad is None else of.grad for of in shards.parameters]
            for name, whole in shards.gather(own, self.session.group).items():
                found["%s.%s" % (prefix, name)] = whole
        return found

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Takes the state of the whole model, which state_dict gives and transformers saves."""
        of_experts = {"%s.%s" % (prefix, name) for prefix, shards in self._experts.items() for name in shards.names}
        missing = sorted(of_experts - set(state))
        if missing:
            raise Error(Status.BAD_ARGUMENT, "the state has no '%s'" % missing[0], self.session.rank)
        for prefix, shards in self._experts.items():
            shards.deal({name: state["%s.%s" % (prefix, name)] for name in shards.names})
        dense = {name: value for name, value in state.items() if name not in of_experts}
        absent = self.model.load_state_dict(dense, strict=False)
        lacking = sorted(set(absent.missing_keys) - set(self.expert_names()))
        if lacking or absent.unexpected_keys:
            raise Error(Status.BAD_ARGUMENT, "the state is of another model: '%s'"
                        % (lacking or list(absent.unexpected_keys))[0], self.session.rank)
        self.session.weights_changed()

    # ---- the rest

    def count(self, reset: bool = False) -> tuple[list[Traffic], Times]:
        """Bytes that this rank sent per level, as the plan counts them, and where time went."""
        return self.session.count(reset)

    def close(self) -> None:
        """Frees what the library holds. The model is of no use afterwards."""
        self.session.close()


def _replace(experts: nn.Module, shards: ExpertShards, session: Session, kernel: Callable[..., torch.Tensor]) -> None:
    for name in shards.names:
        del experts._parameters[name]
    for name, parameter in zip(shards.names if shards.of.own else ["share"], shards.parameters):
        experts.register_parameter(name, parameter)
    gathered = shards.of.gathered

    def compute(rows: torch.Tensor, index: torch.Tensor, weights: torch.Tensor,
                held: dict[str, torch.Tensor]) -> torch.Tensor:
        result: torch.Tensor = kernel(_stand_in(experts, gathered, held), rows, index, weights)
        return result

    def forward(_self: nn.Module, hidden_states: torch.Tensor, top_k_index: torch.Tensor,
                top_k_weights: torch.Tensor) -> torch.Tensor:
        return apply_experts(session, shards, hidden_states, top_k_index, top_k_weights, compute)

    experts.forward = types.MethodType(torch.compiler.disable(forward), experts)


def _balance_over_ranks(model: nn.Module) -> None:
    """The module's function of the load-balancing loss is that of all ranks while a model under a plan runs."""
    module = sys.modules[type(model).__module__]
    local = getattr(module, "load_balancing_loss_func", None)
    if local is None or hasattr(local, "_hep_local"):
        return

    def over_ranks(gate_logits: Any, num_experts: Optional[int] = None, top_k: int = 2,
                   attention_mask: Optional[torch.Tensor] = None) -> Any:
        running = _running.get()
        if running is None or not isinstance(gate_logits, tuple) or num_experts is None:
            return local(gate_logits, num_experts, top_k, attention_mask)
        return load_balancing_loss(gate_logits, num_experts, top_k, attention_mask, running.session.group)

    over_ranks._hep_local = local
    setattr(module, "load_balancing_loss_func", over_ranks)


def _hook(model: nn.Module, parallel: Parallel) -> None:
    tokens: list[Any] = []

    def before(*_: Any) -> None:
        tokens.append(_running.set(parallel))
        parallel.session.begin()

    def after(*_: Any) -> None:
        _running.reset(tokens.pop())

    model.register_forward_pre_hook(before)
    model.register_forward_hook(after, always_call=True)


def parallelize(model: nn.Module, plan: Plan, *, group: Optional[dist.ProcessGroup] = None,
                timeout_s: float = TIMEOUT_S, max_tokens: int = 0, gradient_scale: Optional[float] = None,
                transport: str = "torch") -> Parallel:
    """Shares out the experts of a model of Hugging Face (Mixtral, Qwen3-MoE; transformers 5) by a plan, in place.
    Collective: every rank of `group` (None: the world) has the same model, whole, and the same plan.

    Each layer is checked first: its computation, run on random rows, gives what the model itself does. What cannot be
    shared out is refused with the reason, and then the model is as it was. Options are those of Session. Create
    optimizers afterwards: parameters are others.

    >>> model = AutoModelForCausalLM.from_pretrained(...)
    >>> parallel = hep.torch.parallelize(model, hep.Plan.load("plan.hepb"))
    >>> wrapped = parallel.ddp()
    """
    family = _find_family(model)
    found = _find_experts(model, family)
    _check_plan(plan, model, family, len(found))
    kernels, weights = [], []
    for name, experts in found:
        if "forward" in experts.__dict__:
            raise Error(Status.BAD_CALL, "the model's experts are shared out already")
        kernels.append(_kernel_of(experts))
        weights.append(_weights_of(experts, name))
        _check_computation(experts, name, kernels[-1], weights[-1], plan)
    session = Session(plan, group, timeout_s=timeout_s, max_tokens=max_tokens, gradient_scale=gradient_scale,
                      transport=transport)
    _check_alike(session, model)
    shards = [session.add(layer, given) for layer, given in enumerate(weights)]
    for (_, experts), of, kernel in zip(found, shards, kernels):
        _replace(experts, of, session, kernel)
    parallel = Parallel(model, session, {name: of for (name, _), of in zip(found, shards)})
    _balance_over_ranks(model)
    _hook(model, parallel)
    return parallel
