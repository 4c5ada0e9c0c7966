"""What adapters share: rows to the experts' ranks, ordered by expert, and back, under plans by which tokens travel in
every layer. The framework owns experts' weights and their gradients."""
from __future__ import annotations

from typing import Any, Optional

import torch

from ..context import EXPANDED, Route
from ..error import Error, Status
from ..torch.groups import TORCH_DTYPES, describe
from ..torch.session import Session


class _Dispatch(torch.autograd.Function):
    """Tokens' rows become rows of this rank's experts."""

    @staticmethod
    def forward(ctx: Any, exchange: "Exchange", x: torch.Tensor, weights: torch.Tensor, index: torch.Tensor) -> Any:
        route = exchange.session.context.dispatch(exchange.layer, describe(x), describe(index), describe(weights),
                                                  EXPANDED | exchange.session.dispatch_flags)
        rows, row_weights = x.new_empty(route.rows, x.shape[1]), weights.new_empty(route.rows, 1)
        row_index = index.new_empty(route.rows, 1)
        route.finish(describe(rows), describe(row_index), describe(row_weights))
        exchange.route, ctx.route, ctx.shape = route, route, weights.shape
        return rows, row_weights

    @staticmethod
    def backward(ctx: Any, drows: torch.Tensor, dweights: torch.Tensor) -> Any:
        out_rows, out_weights = drows.new_empty(ctx.shape[0], drows.shape[1]), dweights.new_empty(ctx.shape)
        ctx.route.dispatch_backward(describe(drows.contiguous()), describe(dweights.contiguous()), describe(out_rows),
                                    describe(out_weights))
        return None, out_rows, out_weights, None


class _Combine(torch.autograd.Function):
    """Results of rows, which were multiplied by their weights, become results of tokens. It also depends on the rows
    and weights themselves, so that the backward pass of a rank without rows takes part in that of the others."""

    @staticmethod
    def forward(ctx: Any, exchange: "Exchange", results: torch.Tensor, _rows: torch.Tensor,
                _weights: torch.Tensor) -> torch.Tensor:
        route = exchange.the_route()
        out = results.new_empty(exchange.tokens, results.shape[1])
        route.combine(describe(results.contiguous()), describe(out))
        ctx.route, ctx.shape = route, results.shape
        return out

    @staticmethod
    def backward(ctx: Any, dout: torch.Tensor) -> Any:
        dresults = dout.new_empty(ctx.shape)
        ctx.route.combine_backward(describe(dout.contiguous()), describe(dresults))
        return None, dresults, None, None


class Exchange:
    """The exchange of one MoE layer, counted among such layers. Collective, in one order on all ranks."""

    def __init__(self, session: Session, layer: int) -> None:
        plan = session.plan
        of = plan.layers[layer]
        if not of.own or of.own != of.gathered:
            raise Error(Status.UNSUPPORTED, "the plan gathers experts of layer %d: the framework owns them, so compile one "
                        "by which tokens travel (--domain ep)" % of.model_layer, session.rank)
        self.session, self.layer, self.experts = session, layer, of.own
        self.owned = plan.owned(layer, session.rank)
        self.route: Optional[Route] = None
        self.tokens = 0
        self._sent: tuple[torch.Tensor, torch.Tensor] = (torch.empty(0), torch.empty(0))

    def the_route(self) -> Route:
        if self.route is None:
            raise Error(Status.BAD_CALL, "combine before dispatch", self.session.rank)
        return self.route

    def check_experts(self, total: int, top_k: int, own: range) -> None:
        """The framework's experts are to be where the plan has them."""
        plan = self.session.plan
        if (total, top_k) != (plan.experts, plan.top_k):
            raise Error(Status.BAD_PLAN, "the plan is for %d experts, %d of them per token, not %d and %d"
                        % (plan.experts, plan.top_k, total, top_k), self.session.rank)
        if own != self.owned:
            raise Error(Status.BAD_PLAN, "this rank has experts %d to %d, the plan gives it %d to %d: order ranks as the "
                        "plan does" % (own.start, own.stop - 1, self.owned.start, self.owned.stop - 1), self.session.rank)

    def dispatch(self, x: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x [tokens, hidden], experts and weights [tokens, top_k], an expert of -1 is none. Returns rows, ordered by
        this rank's experts, and their weights [rows]."""
        rows_in = x.to(TORCH_DTYPES[self.session.plan.dtype]).contiguous()
        self.tokens = x.shape[0]
        rows, row_weights = _Dispatch.apply(self, rows_in, weights.float().contiguous(), index.contiguous())
        self._sent = rows, row_weights
        return rows, row_weights.squeeze(1).to(weights.dtype)

    def counts(self) -> list[int]:
        """Rows of each of this rank's experts."""
        return self.the_route().per_expert(self.experts)

    def combine(self, results: torch.Tensor) -> torch.Tensor:
        """Of every token the sum of its rows' results [tokens, hidden]."""
        rows, row_weights = self._sent
        out: torch.Tensor = _Combine.apply(self, results.to(rows.dtype), rows, row_weights)
        return out


def moe_layers(model: torch.nn.Module, kind: type, session: Session) -> list[Any]:
    """The model's modules of that kind, in order: as many as the plan has layers with experts."""
    layers = [module for module in model.modules() if isinstance(module, kind)]
    if len(layers) != session.plan.moe_layers:
        raise Error(Status.BAD_PLAN, "the plan has %d layers with experts, the model %d"
                    % (session.plan.moe_layers, len(layers)), session.rank)
    return layers
