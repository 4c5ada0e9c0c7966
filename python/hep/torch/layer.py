"""Rows to their experts and back, as functions of autograd, and the layer made of them."""
from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Optional

import torch
from torch import nn

from ..context import Route
from ..error import Error, Status
from .groups import TORCH_DTYPES, describe
from .session import ExpertShards, Kernel, Session


class _Call:
    """What the functions of one call of a layer share."""

    def __init__(self, session: Session, layer: int, tokens: int) -> None:
        self.session, self.layer, self.tokens = session, layer, tokens
        self.route: Optional[Route] = None

    def the_route(self) -> Route:
        assert self.route is not None
        return self.route


class _Enter(torch.autograd.Function):
    """Rows of tokens become rows of the rank's experts, whose weights come with them. One function for both, so that
    all ranks do what belongs to it in one order, whether they have rows or not."""

    @staticmethod
    def forward(ctx: Any, call: _Call, x: torch.Tensor, weights: torch.Tensor, index: torch.Tensor,
                *own: torch.Tensor) -> Any:
        full = call.session.enter(call.layer)
        call.route = call.session.context.dispatch(call.layer, describe(x), describe(index), describe(weights),
                                                   call.session.dispatch_flags)
        rows = x.new_empty(call.route.rows, x.shape[1])
        row_weights = weights.new_empty(call.route.rows, call.route.records)
        row_index = index.new_empty(call.route.rows, call.route.records)
        call.route.finish(describe(rows), describe(row_index), describe(row_weights))
        given = [tensor.detach() for tensor in full]
        ctx.call, ctx.own_count, ctx.top_k = call, len(own), weights.shape[1]
        ctx.returns = call.session.plan.training and any(tensor.requires_grad for tensor in own)
        ctx.mark_non_differentiable(row_index, *([] if ctx.returns else given))
        # Recomputation goes as far as the last tensor that is saved: at least to here, on all ranks.
        ctx.save_for_backward(row_weights)
        return rows, row_weights, row_index, *given

    @staticmethod
    def backward(ctx: Any, drows: torch.Tensor, dweights: torch.Tensor, _: Any, *dfull: torch.Tensor) -> Any:
        call, session = ctx.call, ctx.call.session
        if ctx.returns:
            session.take_gradients(call.layer, list(dfull))
        out_rows = drows.new_empty(call.tokens, drows.shape[1])
        out_weights = dweights.new_empty(call.tokens, ctx.top_k)
        call.the_route().dispatch_backward(describe(drows.contiguous()), describe(dweights.contiguous()),
                                           describe(out_rows), describe(out_weights))
        session.leave(call.layer)
        return (None, out_rows, out_weights, None) + (None,) * ctx.own_count


class _Fence(torch.autograd.Function):
    """Results as they are, which now depend on rows and weights also where a rank has no rows: its backward pass then
    takes part in all that the others' do. Recomputation begins here, on all ranks, if nothing after it asked for it."""

    @staticmethod
    def forward(ctx: Any, results: torch.Tensor, row_weights: torch.Tensor, *tied: torch.Tensor) -> torch.Tensor:
        ctx.tied_count = len(tied)
        ctx.save_for_backward(row_weights)
        return results.view_as(results)

    @staticmethod
    def backward(ctx: Any, dresults: torch.Tensor) -> Any:
        _ = ctx.saved_tensors
        return (dresults, None) + (None,) * ctx.tied_count


class _Exit(torch.autograd.Function):
    """Results of rows become results of tokens."""

    @staticmethod
    def forward(ctx: Any, call: _Call, results: torch.Tensor) -> torch.Tensor:
        out = results.new_empty(call.tokens, results.shape[1])
        call.the_route().combine(describe(results.contiguous()), describe(out))
        ctx.call, ctx.shape = call, results.shape
        if not call.session._backward:
            call.session.leave(call.layer)
        return out

    @staticmethod
    def backward(ctx: Any, dout: torch.Tensor) -> Any:
        call = ctx.call
        call.session.enter(call.layer)
        dresults = dout.new_empty(ctx.shape)
        call.the_route().combine_backward(describe(dout.contiguous()), describe(dresults))
        return None, dresults


def apply_experts(session: Session, shards: ExpertShards, x: torch.Tensor, index: torch.Tensor, weights: torch.Tensor,
                  kernel: Kernel) -> torch.Tensor:
    """What a layer's experts make of tokens [..., hidden]: for each, the sum over its top_k experts `index` [tokens,
    top_k] of `weights` [tokens, top_k] times the expert's result. Collective; ranks may have different numbers of
    tokens, also none.

    kernel(rows, index, weights, experts) computes it for rows of any rank's tokens: index counts this rank's gathered
    experts, and is their number where a row names fewer; weights are 0 there; experts are the weights by name,
    [gathered, ...]. Gradients of experts travel in the plan's precision.
    """
    plan = session.plan
    if x.shape[-1] != plan.hidden:
        raise Error(Status.BAD_ARGUMENT, "rows of %d elements: the plan's have %d" % (x.shape[-1], plan.hidden),
                    session.rank)
    rows_in = x.reshape(-1, plan.hidden).to(TORCH_DTYPES[plan.dtype]).contiguous()
    if index.shape != (rows_in.shape[0], plan.top_k) or weights.shape != index.shape:
        raise Error(Status.BAD_ARGUMENT, "experts of shape %s and weights of %s for %d tokens: the plan has top_k %d"
                    % (list(index.shape), list(weights.shape), rows_in.shape[0], plan.top_k), session.rank)
    call = _Call(session, shards.layer, rows_in.shape[0])
    rows, row_weights, row_index, *full = _Enter.apply(call, rows_in, weights.float().contiguous(), index.contiguous(),
                                                       *shards.parameters)
    watch = None if session._backward else session.watch  # what is computed again was seen before
    if watch:
        watch(shards.layer, index, None)
    begin_s = time.perf_counter()
    results = kernel(rows, row_index, row_weights.to(weights.dtype), dict(zip(shards.names, full)))
    if watch:
        watch(shards.layer, index, time.perf_counter() - begin_s)
    if results.shape != rows.shape:
        raise Error(Status.BAD_ARGUMENT, "results of shape %s for rows of %s" % (list(results.shape),
                                                                                 list(rows.shape)), session.rank)
    results = _Fence.apply(results.to(rows.dtype), row_weights, rows, *full)
    return _Exit.apply(call, results).to(x.dtype).view(x.shape)


class MoELayer(nn.Module):
    """The experts of one MoE layer under a plan, for models of one's own: it owns this rank's share of their weights.

    layer: counted among MoE layers. weights: by name, [experts, ...], the same on all ranks. kernel: what the experts
    compute; see apply_experts. Called with tokens, their experts and the gate's weights:

    >>> layer = MoELayer(session, 0, {"up": up, "down": down}, kernel)
    >>> y = layer(x, index, gate)
    """

    def __init__(self, session: Session, layer: int, weights: Mapping[str, torch.Tensor], kernel: Kernel) -> None:
        super().__init__()
        self._session, self.kernel = session, kernel
        self.shards = session.add(layer, weights)
        names = self.shards.names if self.shards.of.own else ["share"]
        for name, parameter in zip(names, self.shards.parameters):
            self.register_parameter(name, parameter)

    @torch.compiler.disable
    def forward(self, x: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return apply_experts(self._session, self.shards, x, index, weights, self.kernel)
