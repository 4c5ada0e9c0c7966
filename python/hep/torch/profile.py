"""What a training shows of a model, for `hepc --profile`: how often each expert was chosen and how long layers compute."""
from __future__ import annotations

import contextlib
import json
import os
import statistics
import time
from collections.abc import Iterator
from typing import Any, Optional, Union

import torch
import torch.distributed as dist
from torch import nn

from ..error import Error, Status
from .huggingface import Parallel


class _Clock:
    """Seconds of forward passes, of this rank: one number for every pass, by name."""

    def __init__(self) -> None:
        self.passes: dict[Any, list[float]] = {}
        self.begun: dict[Any, float] = {}

    def begin(self, name: Any) -> None:
        self.begun[name] = time.perf_counter()

    def end(self, name: Any) -> None:
        if name in self.begun:
            self.passes.setdefault(name, []).append(time.perf_counter() - self.begun.pop(name))

    def median(self, name: Any) -> float:
        return statistics.median(self.passes[name]) if self.passes.get(name) else 0.0


class _Layers:
    """The decoder layers of a model: the modules of the list in which its experts' blocks are."""

    def __init__(self, parallel: Parallel) -> None:
        names = parallel.layer_names()
        parts = names[0].split(".")
        place = next((k for k, part in enumerate(parts) if part.isdigit()), None)
        if place is None or place + 2 > len(parts) - 1:
            raise Error(Status.UNSUPPORTED, "'%s' is in no list of layers: its times cannot be told apart" % names[0],
                        parallel.session.rank)
        layers = parallel.model.get_submodule(".".join(parts[:place]))
        assert isinstance(layers, (nn.ModuleList, nn.Sequential))
        self.layers, self.block = list(layers), parts[place + 1]
        self.moe = {int(name.split(".")[place]): index for index, name in enumerate(names)}
        if len(self.layers) != parallel.plan.model_layers:
            raise Error(Status.UNSUPPORTED, "the plan has %d layers, the model %d: they cannot be told apart"
                        % (parallel.plan.model_layers, len(self.layers)), parallel.session.rank)


@contextlib.contextmanager
def profile(parallel: Parallel, path: Union[str, "os.PathLike[str]"]) -> Iterator[None]:
    """Measures the forward passes that are run within, and writes what they show to a file for `hepc --profile`, from
    rank 0. Collective. Times are medians of passes, of the slowest rank, without communication; the first pass should be
    run before. The backward pass is not timed: hepc derives it from the forward pass.

    >>> with hep.torch.profile(parallel, "profile.json"):
    ...     for batch in some_batches: train(batch)
    """
    layers, clock, session = _Layers(parallel), _Clock(), parallel.session
    chosen = torch.zeros(parallel.plan.moe_layers, parallel.plan.experts, dtype=torch.float64)
    shape: list[int] = []

    def watch(layer: int, index: torch.Tensor, seconds: Optional[float]) -> None:
        if seconds is None:
            valid = index[index >= 0].flatten()
            chosen[layer] += torch.bincount(valid, minlength=parallel.plan.experts)
        else:
            clock.passes.setdefault(("experts", layer), []).append(seconds)

    def whole(_model: nn.Module, _arguments: Any, named: dict[str, Any]) -> None:
        tokens = named.get("input_ids", named.get("inputs_embeds"))
        if tokens is not None:
            shape[:] = tokens.shape[:2]
        clock.begin("model")

    def begin(name: Any) -> Any:
        return lambda *_: clock.begin(name)

    def end(name: Any) -> Any:
        return lambda *_: clock.end(name)

    hooks = [parallel.model.register_forward_pre_hook(whole, with_kwargs=True),
             parallel.model.register_forward_hook(end("model"))]
    for index, layer in enumerate(layers.layers):
        watched = [("layer", layer), ("block", getattr(layer, layers.block, None))]
        if index in layers.moe:
            watched.append(("exchange", parallel.model.get_submodule(parallel.layer_names()[layers.moe[index]])))
        for name, module in watched:
            if module is not None:
                hooks += [module.register_forward_pre_hook(begin((name, index))),
                          module.register_forward_hook(end((name, index)))]
    session.watch = watch
    try:
        yield
    finally:
        session.watch = None
        for hook in hooks:
            hook.remove()
    if not shape:
        raise Error(Status.BAD_CALL, "no forward pass with input_ids was run: there is nothing to write", session.rank)
    _write(parallel, path, _times(layers, clock), chosen, shape)


def _times(layers: _Layers, clock: _Clock) -> torch.Tensor:
    """[layers + 1][pre_expert, dense, gate, expert], the last row with what is outside of all layers first."""
    rows = []
    for index in range(len(layers.layers)):
        layer, block = clock.median(("layer", index)), clock.median(("block", index))
        if index in layers.moe:  # shared experts run in the block as the gate does, and count as that
            exchange = clock.median(("exchange", index))
            rows.append([layer - block, 0.0, block - exchange, clock.median(("experts", layers.moe[index]))])
        else:
            rows.append([layer - block, block, 0.0, 0.0])
    outside = clock.median("model") - sum(clock.median(("layer", index)) for index in range(len(layers.layers)))
    return torch.tensor([*rows, [outside, 0.0, 0.0, 0.0]], dtype=torch.float64).clamp(min=0)


def _busiest(parallel: Parallel, layer: int, chosen: torch.Tensor) -> float:
    """Choices that fall on the busiest block of experts which ranks hold, over the average block's."""
    blocks = {(held.start, held.stop) for held in (parallel.plan.held(layer, rank) for rank in range(parallel.plan.ranks))}
    total = chosen.sum().item()
    return max(chosen[first:stop].sum().item() for first, stop in blocks) * len(blocks) / total if total else 1.0


def _write(parallel: Parallel, path: Union[str, "os.PathLike[str]"], times: torch.Tensor, chosen: torch.Tensor,
           shape: list[int]) -> None:
    plan, group = parallel.plan, parallel.session.group
    dist.all_reduce(times, op=dist.ReduceOp.MAX, group=group)
    dist.all_reduce(chosen, group=group)
    if parallel.session.rank:
        return
    batch, sequence = shape
    rows, moe = float(batch * sequence * plan.top_k), {of.model_layer: k for k, of in enumerate(plan.layers)}
    layers: list[dict[str, Any]] = []
    for index, (pre_expert, dense, gate, expert) in enumerate(times[:-1].tolist()):
        layers.append({"layer": index, "pre_expert_s": pre_expert, "dense_s": dense})
        if index in moe:
            k = moe[index]
            layers[-1].update(gate_s=gate, expert_s=expert, expert_rows=rows / plan.layers[k].gathered,
                              expert_flops=2 * rows * _busiest(parallel, k, chosen[k]) * plan.expert_elements,
                              histogram=chosen[k].tolist())
    content = {"format": "hep-profile", "profile_version": 1,
               "model": {"layers": plan.model_layers, "hidden": plan.hidden, "sequence": sequence, "batch": batch,
                         "experts": plan.experts, "top_k": plan.top_k, "inner": plan.inner},
               "loss_s": times[-1, 0].item(), "layers": layers}
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.write("\n")
