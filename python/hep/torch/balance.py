"""The load-balancing loss over all ranks' tokens: the mean of ranks' losses is another number, with other gradients."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional, Union

import torch
import torch.distributed as dist


class _SumOverRanks(torch.autograd.Function):
    """The sum, of which every rank has the gradient of its own loss: the sum of these is that of each addend."""

    @staticmethod
    def forward(ctx: Any, addend: torch.Tensor, group: Optional[dist.ProcessGroup]) -> torch.Tensor:
        ctx.group = group
        total = addend.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        total = gradient.clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


def load_balancing_loss(gate_logits: Union[torch.Tensor, tuple[torch.Tensor, ...]], num_experts: int, top_k: int = 2,
                        attention_mask: Optional[torch.Tensor] = None,
                        group: Optional[dist.ProcessGroup] = None) -> torch.Tensor:
    """The loss of the Switch Transformer, over the tokens of all ranks and layers: experts times the sum over experts of
    the share of choices and the mean probability. Collective. Every rank gets the same number; gradients are right when
    those of ranks are averaged, as DistributedDataParallel does.

    gate_logits: of each layer, [tokens, experts]. attention_mask: [batch, sequence], 0 where tokens do not count.
    """
    sums = _sums(gate_logits, num_experts, top_k, attention_mask)
    return _loss(_SumOverRanks.apply(sums, group), num_experts)


def _sums(gate_logits: Union[torch.Tensor, tuple[torch.Tensor, ...]], num_experts: int, top_k: int,
          attention_mask: Optional[torch.Tensor]) -> torch.Tensor:
    """Of each expert how often it was chosen, and its probabilities; and how many rows there were."""
    layers = gate_logits if isinstance(gate_logits, (tuple, list)) else (gate_logits,)
    chosen = layers[0].new_zeros(num_experts, dtype=torch.float32)
    probability = torch.zeros_like(chosen)
    rows = torch.zeros(1)
    counts = None if attention_mask is None else attention_mask.reshape(-1).float()
    for logits in layers:
        probabilities = torch.softmax(logits.float(), dim=-1)
        _, index = torch.topk(probabilities, top_k, dim=-1)
        weight = probabilities.new_ones(logits.shape[0]) if counts is None else counts
        chosen = chosen.index_add(0, index.reshape(-1), weight.repeat_interleave(top_k))
        probability = probability + (probabilities * weight.unsqueeze(-1)).sum(0)
        rows = rows + weight.sum().cpu()
    return torch.cat([chosen, probability, rows.to(chosen)])


def _loss(total: torch.Tensor, num_experts: int) -> torch.Tensor:
    chosen, probability, count = total.split([num_experts, num_experts, 1])
    return num_experts * torch.sum(chosen.detach() / count.detach() * probability / count.detach())


def is_load_balancing_loss(function: Callable[..., Any]) -> bool:
    """Whether a function of transformers computes what load_balancing_loss does, of one rank: tried out, with and without
    a mask. Local."""
    generator = torch.Generator().manual_seed(3)
    logits = tuple(torch.randn(6, 5, generator=generator) for _ in range(2))
    for mask in (None, torch.tensor([[1, 1, 0], [1, 0, 1]])):
        try:
            found = function(logits, 5, 2, mask)
        except Exception:
            return False
        if not torch.is_tensor(found) or not torch.allclose(found, _loss(_sums(logits, 5, 2, mask), 5), rtol=1e-5):
            return False
    return True
