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
from .balance import is_load_balancing_loss, load_balancing_loss
from .groups import TIMEOUT_S, global_rank
from .layer import apply_experts
from .session import ExpertShards, Session


PROBE_SEQUENCES, PROBE_TOKENS = 2, 8  # what models are tried on, before anything is changed

# The model whose forward pass is running: its load-balancing loss is of all ranks.
_running: "contextvars.ContextVar[Optional[Parallel]]" = contextvars.ContextVar("hep_running", default=None)


# ---- what is patched, or refused -------------------------------------------------------------------------------


def _refuse(why: str) -> Error:
    return Error(Status.UNSUPPORTED, why)


def _check_model(model: nn.Module) -> None:
    if getattr(model, "config", None) is None or not hasattr(model.config, "model_type"):
        raise _refuse("%s is no model of transformers: build it of hep.torch.MoELayer" % type(model).__name__)
    if getattr(model, "_tp_size", None) or getattr(model, "_device_mesh", None) is not None:
        raise _refuse("the model is sharded by transformers (tp_plan): load it whole")
    if getattr(model, "is_quantized", False):
        raise _refuse("the model is quantised: experts travel in the precision that they are trained in")


def _is_experts(module: nn.Module) -> bool:
    """Whether it takes its computation from transformers' registry of experts' implementations."""
    return hasattr(type(module).forward, "__wrapped__") and hasattr(module, "is_transposed")


def _find_experts(model: nn.Module) -> list[tuple[str, nn.Module]]:
    found = [(name, module) for name, module in model.named_modules() if _is_experts(module)]
    if found:
        return found
    import transformers

    if int(transformers.__version__.split(".")[0]) < 5:
        raise _refuse("transformers %s keeps a module per expert: hep takes those of 5 and later"
                      % transformers.__version__)
    others = [name for name, _ in model.named_modules() if name.rpartition(".")[2] == "experts"]
    if others:
        raise _refuse("'%s' (%s) does not take its computation from transformers' registry of experts' implementations"
                      % (others[0], type(model.get_submodule(others[0])).__name__))
    raise _refuse("%s has no experts" % type(model).__name__)


def _kernel_of(experts: nn.Module, name: str) -> Callable[..., torch.Tensor]:
    """The computation that the model was configured to use, as a function of a module."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    if getattr(experts, "has_bias", False):
        raise _refuse("'%s': experts have biases, which plans do not know" % name)
    return ALL_EXPERTS_FUNCTIONS.get_interface(experts.config._experts_implementation, type(experts).forward.__wrapped__)


def _weights_of(model: nn.Module, experts: nn.Module, name: str) -> dict[str, torch.Tensor]:
    weights = dict(experts.named_parameters())
    if any("." in of for of in weights) or list(experts.named_buffers()):
        raise _refuse("'%s' has more than its own parameters" % name)
    if len({parameter.requires_grad for parameter in weights.values()}) > 1:
        raise _refuse("'%s' is frozen in parts: all parameters of a layer's experts are trained, or none" % name)
    own = {id(parameter) for parameter in weights.values()}
    for other, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in own and other.rpartition(".")[0] != name:
            raise _refuse("'%s' shares weights with '%s'" % (name, other))
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


def _difference(found: torch.Tensor, expected: torch.Tensor, roundings: int) -> float:
    """How far results are apart; 0: by no more than so many roundings of the largest value."""
    if found.shape != expected.shape:
        return float("inf")
    error = (found - expected).abs().max().item() if found.numel() else 0.0
    bound = roundings * torch.finfo(expected.dtype).eps * max(expected.abs().max().item() if found.numel() else 0, 1e-30)
    return 0.0 if error <= bound else error


def _check_computation(layer: "_Layer", plan: Plan) -> None:
    """Runs the module as it is, and its computation on the last half of the experts, on random rows, of which those
    without such an expert are left out and the others come in another order: results are the same. No communication."""
    generator = torch.Generator().manual_seed(1)
    like = next(iter(layer.weights.values()))
    rows = torch.randn(16, plan.hidden, generator=generator).to(like)
    index = torch.stack([torch.randperm(plan.experts, generator=generator)[:plan.top_k] for _ in range(16)])
    first = plan.experts // 2
    held = index >= first
    gate = torch.rand(16, plan.top_k, generator=generator).to(like) * held
    arrive = held.any(1).nonzero().flatten().flip(0)
    part = {of: weight.detach()[first:] for of, weight in layer.weights.items()}
    count = plan.experts - first
    try:
        with torch.no_grad():
            expected = layer.experts(rows, index, gate)[arrive]
            found = layer.kernel(_stand_in(layer.experts, count, part), rows[arrive],
                                 torch.where(held, index - first, count)[arrive], gate[arrive])
    except Exception as error:
        raise _refuse("'%s' cannot be run as experts(rows, index, weights) on some of its experts: %s: %s"
                      % (layer.name, type(error).__name__, error)) from error
    off = _difference(found, expected, 4 * plan.top_k)
    if off:
        raise _refuse("'%s' computes its experts in another way than hep would: results differ by %g" % (layer.name, off))


def _check_plan(plan: Plan, layers: "list[_Layer]") -> None:
    stated = [("layers with experts", len(layers), plan.moe_layers)]
    for layer in layers:
        stated.append(("experts", next(iter(layer.weights.values())).shape[0], plan.experts))
        for name in ("intermediate_dim", "intermediate_size"):
            if hasattr(layer.experts, name):
                stated.append(("width of an expert", getattr(layer.experts, name), plan.inner))
    stated.append(("hidden size", _text_config(layers[0].experts.config).hidden_size, plan.hidden))
    _compare(stated)


def _compare(stated: list[tuple[str, int, int]]) -> None:
    for what, of_model, of_plan in stated:
        if of_model != of_plan:
            raise Error(Status.BAD_PLAN, "the plan was made for another model: %s: %d, the model's %d"
                        % (what, of_plan, of_model))


def _text_config(config: Any) -> Any:
    return config.get_text_config() if hasattr(config, "get_text_config") else config


# ---- models are tried out --------------------------------------------------------------------------------------


@dataclass
class _Layer:
    """A layer's experts, and what computes them."""

    name: str
    experts: nn.Module
    kernel: Callable[..., torch.Tensor]
    weights: dict[str, torch.Tensor]


def _run(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """The model's logits, with the same random numbers every time."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        out = model(input_ids=tokens)
    logits: torch.Tensor = out.logits if hasattr(out, "logits") else out[0]
    return logits


@contextlib.contextmanager
def _by_hep(layers: list[_Layer], calls: list[Any]) -> Iterator[None]:
    """Experts compute on stand-ins, as they will, and their modules have no weights. calls: of what, with which rows and
    experts."""
    kept = [dict(layer.experts._parameters) for layer in layers]

    def forward_of(position: int, layer: _Layer) -> Any:
        def forward(_self: nn.Module, hidden_states: torch.Tensor, top_k_index: torch.Tensor,
                    top_k_weights: torch.Tensor) -> torch.Tensor:
            calls.append((position, hidden_states, top_k_index))
            whole = {name: weight.detach() for name, weight in layer.weights.items()}
            result: torch.Tensor = layer.kernel(_stand_in(layer.experts, len(next(iter(whole.values()))), whole),
                                                hidden_states, top_k_index, top_k_weights)
            return result

        return types.MethodType(forward, layer.experts)

    try:
        for position, layer in enumerate(layers):
            layer.experts.forward = forward_of(position, layer)  # type: ignore[method-assign]
            layer.experts._parameters.clear()
        yield
    finally:
        for layer, parameters in zip(layers, kept):
            del layer.experts.forward
            layer.experts._parameters.update(parameters)


def _probe(model: nn.Module, layers: list[_Layer], plan: Plan) -> None:
    """Runs the model on a few tokens as it is, and as it will run, without communication: results are the same, every
    layer's experts are called once and in order, and nothing but them is changed by what tokens came."""
    generator = torch.Generator().manual_seed(2)
    vocabulary = _text_config(model.config).vocab_size
    tokens = torch.randint(0, vocabulary, (PROBE_SEQUENCES, PROBE_TOKENS), generator=generator)
    tokens = tokens.to(next(model.parameters()).device)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    calls: list[Any] = []
    try:
        try:
            expected = _run(model, tokens)
        except Exception as error:
            raise _refuse("the model cannot be tried out: %s: %s" % (type(error).__name__, error)) from error
        _check_buffers(model, buffers)
        try:
            with _by_hep(layers, calls):
                found = _run(model, tokens)
        except Exception as error:
            raise _refuse("the model uses its experts in another way than as experts(rows, index, weights): %s: %s"
                          % (type(error).__name__, error)) from error
        _check_calls(layers, calls, plan)
        off = _difference(found, expected, 64 * plan.top_k)
        if off:
            raise _refuse("the model computes something else when hep computes its experts: logits differ by %g" % off)
        _check_sequences(model, tokens)
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in buffers and buffer.shape == buffers[name].shape:
                    buffer.copy_(buffers[name])


def _check_buffers(model: nn.Module, before: Mapping[str, torch.Tensor]) -> None:
    for name, buffer in model.named_buffers():
        if name in before and not torch.equal(buffer, before[name]):
            raise _refuse("'%s' changes with the tokens that a rank sees: ranks would differ in it" % name)


def _check_calls(layers: list[_Layer], calls: list[Any], plan: Plan) -> None:
    positions = [position for position, _, _ in calls]
    if positions != list(range(len(layers))):
        wrong = next((k for k in range(len(layers)) if positions.count(k) != 1), 0)
        raise _refuse("'%s' is called %d times in a forward pass, or out of order"
                      % (layers[wrong].name, positions.count(wrong)))
    for position, rows, index in calls:
        name = layers[position].name
        if rows.dim() != 2 or index.dim() != 2 or index.shape[0] != rows.shape[0]:
            raise _refuse("'%s' is called with rows of shape %s and experts of %s" % (name, list(rows.shape),
                                                                                     list(index.shape)))
        _compare([("width of rows", rows.shape[1], plan.hidden), ("experts per token", index.shape[1], plan.top_k)])
        if index.min() < 0 or index.max() >= plan.experts:
            raise _refuse("'%s': tokens name experts that it does not have" % name)
        ordered = index.sort(dim=1).values
        if (ordered[:, 1:] == ordered[:, :-1]).any():
            raise _refuse("'%s': a token names an expert twice" % name)


def _check_sequences(model: nn.Module, tokens: torch.Tensor) -> None:
    """What becomes of a sequence does not depend on others of the batch, which other ranks may have. In evaluation, as
    random numbers are others; not in 16 bits, whose roundings another choice of experts may follow."""
    if next(model.parameters()).dtype not in (torch.float32, torch.float64):
        return
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        off = _difference(_run(model, tokens[:1]), _run(model, tokens)[:1], 4096)
    finally:
        for module, mode in modes:
            module.training = mode
    if off:
        raise _refuse("what becomes of a sequence depends on the others of its batch: logits differ by %g" % off)


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
        self._meshes: dict[Any, Any] = {}
        self._has_balance = False  # the forward pass has summed its load-balancing loss over ranks

    @property
    def plan(self) -> Plan:
        return self.session.plan

    def _dense(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if id(parameter) not in self._own]

    def expert_names(self) -> list[str]:
        """Names of the parameters that differ from rank to rank."""
        return [name for name, parameter in self.model.named_parameters() if id(parameter) in self._own]

    def layer_names(self) -> list[str]:
        """Names of the modules of experts, in the order of the plan's MoE layers."""
        return list(self._experts)

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
        squares = torch.zeros(1, dtype=torch.float64, device=next(self.model.parameters()).device)
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

    def sharded_state_dict(self) -> dict[str, torch.Tensor]:
        """The model's for torch.distributed.checkpoint, by its names: experts as DTensors that are this rank's share of
        the whole ones, all else as it is. Nothing is gathered. Collective. Shares have to be whole experts.

        save() writes what any number of ranks, under any plan, and the unchanged model load again; load() into it changes
        the model, and is followed by weights_changed().
        """
        own = set(self.expert_names())
        state = {name: value.detach() for name, value in self.model.state_dict().items() if name not in own}
        for prefix, shards in self._experts.items():
            for name, value in self._sharded(shards).items():
                state["%s.%s" % (prefix, name)] = value
        return state

    def _sharded(self, shards: ExpertShards) -> dict[str, torch.Tensor]:
        from torch.distributed.tensor import DTensor, Replicate, Shard

        if not shards.of.own:
            raise _refuse("shares of layer %d are no whole experts: save state_dict(), whole" % shards.of.model_layer)
        mesh = self._mesh_of(shards.layer)
        return {name: DTensor.from_local(parameter.detach(), mesh, [Replicate(), Shard(0)], run_check=False)
                for name, parameter in zip(shards.names, shards.parameters)}

    def _mesh_of(self, layer: int) -> Any:
        """Ranks [copies][owners], owners in the order of the experts that they own."""
        from torch.distributed.device_mesh import DeviceMesh

        plan, ranks = self.plan, range(self.session.ranks)
        by_first: dict[int, list[int]] = {}
        for rank in ranks:
            by_first.setdefault(plan.owned(layer, rank).start, []).append(global_rank(self.session.group, rank))
        order = tuple(zip(*[by_first[first] for first in sorted(by_first)]))
        if order not in self._meshes:
            kind = next(self.session.parameters()).device.type
            self._meshes[order] = DeviceMesh(kind, torch.tensor(order), mesh_dim_names=("copies", "owners"))
        return self._meshes[order]

    def gradients(self) -> dict[str, torch.Tensor]:
        """Gradients of experts, gathered from their owners, by the names of the whole model. Collective."""
        found = {}
        for prefix, shards in self._experts.items():
            own = [torch.zeros_like(of) if of.grad is None else of.grad for of in shards.parameters]
            for name, whole in shards.gather(own, self.session.group).items():
                found["%s.%s" % (prefix, name)] = whole
        return found

    def codec_state(self) -> dict[str, torch.Tensor]:
        """What this rank remembers of weights and gradients that the plan compresses: Session.codec_state."""
        return self.session.codec_state()

    def load_codec_state(self, state: Optional[Mapping[str, torch.Tensor]] = None) -> bool:
        """After weights were loaded: resumes with what was saved beside them. Collective: Session.load_codec_state."""
        return self.session.load_codec_state(state)

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Takes the state of the whole model, which state_dict gives and transformers saves. Codecs forget what they
        remember, until load_codec_state. Collective."""
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
        self.session.load_codec_state()

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
    """The model's function of the load-balancing loss is that of all ranks while it runs under a plan."""
    for module in {sys.modules[of.__module__] for of in type(model).__mro__}:
        local = getattr(module, "load_balancing_loss_func", None)
        if local is not None and not hasattr(local, "_hep_local"):
            setattr(module, "load_balancing_loss_func", _over_ranks(local))


def _over_ranks(local: Callable[..., Any]) -> Callable[..., Any]:
    is_known = is_load_balancing_loss(local)

    def over_ranks(gate_logits: Any, num_experts: Optional[int] = None, top_k: int = 2,
                   attention_mask: Optional[torch.Tensor] = None, **more: Any) -> Any:
        running = _running.get()
        if running is None or not isinstance(gate_logits, tuple) or num_experts is None:
            return local(gate_logits, num_experts, top_k, attention_mask, **more)
        if not is_known or more:
            raise _refuse("the model computes its load-balancing loss in another way than that of the Switch Transformer: "
                          "it would be that of this rank's tokens")
        running._has_balance = True
        return load_balancing_loss(gate_logits, num_experts, top_k, attention_mask, running.session.group)

    over_ranks._hep_local = local  # type: ignore[attr-defined]
    return over_ranks


def _hook(model: nn.Module, parallel: Parallel) -> None:
    tokens: list[Any] = []

    def before(*_: Any) -> None:
        tokens.append(_running.set(parallel))
        parallel._has_balance = False
        parallel.session.begin()

    def after(_model: nn.Module, _arguments: Any, out: Any) -> None:
        _running.reset(tokens.pop())
        if getattr(out, "aux_loss", None) is not None and not parallel._has_balance:
            raise _refuse("the model computes its load-balancing loss by itself: it is that of this rank's tokens")

    model.register_forward_pre_hook(before)
    model.register_forward_hook(after, always_call=True)


def parallelize(model: nn.Module, plan: Plan, *, group: Optional[dist.ProcessGroup] = None,
                timeout_s: float = TIMEOUT_S, max_tokens: int = 0, gradient_scale: Optional[float] = None,
                transport: str = "auto", drop: bool = False) -> Parallel:
    """Shares out the experts of a model of Hugging Face (transformers 5) by a plan, in place. Collective: every rank of
    `group` (None: the world) has the same model, whole, and the same plan.

    What is understood are experts whose computation transformers registers: fused parameters [experts, ...], called as
    experts(rows, index, weights). The model is tried out first, on a few tokens and without communication: each layer's
    computation on a part of its experts, and the whole model with experts computed as hep does, give what the model
    itself gives. What cannot be shared out is refused with the reason, and then the model is as it was. Options are those
    of Session. Create optimizers afterwards: parameters are others.

    >>> model = AutoModelForCausalLM.from_pretrained(...)
    >>> parallel = hep.torch.parallelize(model, hep.Plan.load("plan.hepb"))
    >>> wrapped = parallel.ddp()
    """
    _check_model(model)
    layers = []
    for name, experts in _find_experts(model):
        if "forward" in experts.__dict__:
            raise Error(Status.BAD_CALL, "the model's experts are shared out already")
        layers.append(_Layer(name, experts, _kernel_of(experts, name), _weights_of(model, experts, name)))
    _check_plan(plan, layers)
    for layer in layers:
        _check_computation(layer, plan)
    _probe(model, layers, plan)
    session = Session(plan, group, timeout_s=timeout_s, max_tokens=max_tokens, gradient_scale=gradient_scale,
                      transport=transport, drop=drop)
    _check_alike(session, model)
    shards = [session.add(index, layer.weights) for index, layer in enumerate(layers)]
    for layer, of in zip(layers, shards):
        _replace(layer.experts, of, session, layer.kernel)
    parallel = Parallel(model, session, {layer.name: of for layer, of in zip(layers, shards)})
    _balance_over_ranks(model)
    _hook(model, parallel)
    return parallel
