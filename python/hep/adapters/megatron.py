"""A token dispatcher of Megatron-Core by which tokens travel as a plan says: hop by hop, once per destination.

>>> session = hep.torch.Session(hep.Plan.load("ep.hepb"))
>>> hep.adapters.megatron.use_plan(model, session)  # of megatron.core, with its MoE layers built

Experts, router and gradients are Megatron's. Of its options it takes expert parallelism over all ranks, without tensor
parallelism of experts, capacities, biases of experts or latent projections.
"""
from __future__ import annotations

from typing import Any

import torch
from megatron.core.transformer.moe.moe_layer import MoELayer
from megatron.core.transformer.moe.token_dispatcher import MoETokenDispatcher

from ..error import Error, Status
from ..torch.session import Session
from .exchange import Exchange, moe_layers


class HepTokenDispatcher(MoETokenDispatcher):  # type: ignore[misc]
    """Of one MoE layer, counted among such layers from 0."""

    def __init__(self, session: Session, layer: int, num_local_experts: int, local_expert_indices: list[int], config: Any,
                 pg_collection: Any) -> None:
        super().__init__(config=config, pg_collection=pg_collection)
        refused = [("tensor parallelism of experts", self.tp_size > 1),
                   ("expert parallelism over %d of %d ranks" % (self.ep_size, session.ranks),
                    self.ep_size != session.ranks),
                   ("a capacity", config.moe_expert_capacity_factor is not None),
                   ("latent projections", bool(getattr(config, "moe_latent_size", None)))]
        for what, is_so in refused:
            if is_so:
                raise Error(Status.UNSUPPORTED, "plans do not know of " + what, session.rank)
        self.exchange = Exchange(session, layer)
        own = range(local_expert_indices[0], local_expert_indices[-1] + 1)
        self.exchange.check_experts(config.num_moe_experts, config.moe_router_topk, own)
        self.num_local_experts = num_local_experts
        self._index = torch.empty(0, dtype=torch.long)
        self._shape = torch.Size()

    def dispatch_preprocess(self, tokens: torch.Tensor, routing_map: torch.Tensor, probs: torch.Tensor) -> Any:
        """Maps of experts [tokens, experts] become lists [tokens, top_k]; -1 where a token has fewer."""
        self._shape = tokens.shape
        marks, index = routing_map.to(torch.int8).topk(self.config.moe_router_topk, dim=1)
        self._index = torch.where(marks > 0, index, -1)
        return tokens.reshape(-1, self._shape[-1]), probs.gather(1, index) * marks.to(probs.dtype)

    def token_dispatch(self, hidden_states: torch.Tensor, probs: torch.Tensor) -> Any:
        return self.exchange.dispatch(hidden_states, self._index, probs)

    def dispatch_postprocess(self, hidden_states: torch.Tensor, probs: torch.Tensor) -> Any:
        return hidden_states, torch.tensor(self.exchange.counts()), probs

    def combine_preprocess(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states

    def token_combine(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.exchange.combine(hidden_states)

    def combine_postprocess(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states.view(self._shape)


def use_plan(model: torch.nn.Module, session: Session) -> None:
    """Puts a dispatcher under the plan into every MoELayer of the model, in order."""
    layers = moe_layers(model, MoELayer, session)
    made = []
    for index, layer in enumerate(layers):
        old = layer.token_dispatcher
        if old.shared_experts is not None:
            raise Error(Status.UNSUPPORTED, "shared experts that overlap with the dispatch (moe_shared_expert_overlap)",
                        session.rank)
        groups = type("Groups", (), {"ep": old.ep_group, "expt_tp": old.tp_group, "tp_ep": old.tp_ep_group})
        made.append(HepTokenDispatcher(session, index, layer.num_local_experts, list(layer.local_expert_indices),
                                       layer.config, groups))
    for layer, dispatcher in zip(layers, made):
        layer.token_dispatcher = dispatcher
