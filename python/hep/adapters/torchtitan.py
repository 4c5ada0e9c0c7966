"""A token dispatcher of torchtitan by which tokens travel as a plan says: hop by hop, once per destination.

>>> session = hep.torch.Session(hep.Plan.load("ep.hepb"))
>>> hep.adapters.torchtitan.use_plan(model, session)  # after it was parallelised

Experts, router and gradients are torchtitan's. Its expert-parallel mesh has to have all ranks.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torchtitan.models.common.moe import RoutedExperts
from torchtitan.models.common.token_dispatcher import BaseEPTokenDispatcher

from ..error import Error, Status
from ..torch.session import Session
from .exchange import Exchange, moe_layers


class HepTokenDispatcher(BaseEPTokenDispatcher):  # type: ignore[misc]
    """Of one MoE layer, counted among such layers from 0. Scores are applied to results, as torchtitan's own do, before
    these return."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseEPTokenDispatcher.Config):  # type: ignore[misc]
        session: Any
        layer: int

    def __init__(self, config: "HepTokenDispatcher.Config") -> None:
        super().__init__(config)
        session = config.session
        self.exchange = Exchange(session, config.layer)
        own = config.num_experts // session.ranks
        self.exchange.check_experts(config.num_experts, config.top_k,
                                    range(session.rank * own, (session.rank + 1) * own))

    def wire_meshes(self, *, ep_mesh: Any) -> None:
        session = self.exchange.session
        if ep_mesh is None or ep_mesh.size() != session.ranks:
            raise Error(Status.UNSUPPORTED, "expert parallelism over %d ranks, the plan is for %d"
                        % (1 if ep_mesh is None else ep_mesh.size(), session.ranks), session.rank)
        super().wire_meshes(ep_mesh=ep_mesh)

    def dispatch(self, x_TD: torch.Tensor, topk_scores_TK: torch.Tensor, topk_expert_ids_TK: torch.Tensor,
                 num_local_tokens_per_expert_E: torch.Tensor) -> Any:
        rows, scores = self.exchange.dispatch(x_TD, topk_expert_ids_TK, topk_scores_TK)
        counts = torch.tensor(self.exchange.counts(), dtype=num_local_tokens_per_expert_E.dtype)
        return rows, counts, scores

    def combine(self, routed_output_RD: torch.Tensor, metadata: Any, x_TD: torch.Tensor) -> torch.Tensor:
        scaled = (routed_output_RD.float() * metadata.float().unsqueeze(1)).to(routed_output_RD.dtype)
        return self.exchange.combine(scaled).to(x_TD.dtype)


def use_plan(model: torch.nn.Module, session: Session) -> None:
    """Puts a dispatcher under the plan into every RoutedExperts of the model, in order."""
    layers = moe_layers(model, RoutedExperts, session)
    made = []
    for index, layer in enumerate(layers):
        old = layer.token_dispatcher
        made.append(HepTokenDispatcher(HepTokenDispatcher.Config(num_experts=old.num_experts, top_k=old.top_k,
                                                                 session=session, layer=index)))
        made[-1].wire_meshes(ep_mesh=getattr(old, "ep_mesh", None))
    for layer, dispatcher in zip(layers, made):
        layer.token_dispatcher = dispatcher
