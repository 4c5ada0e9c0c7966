"""Plans in PyTorch: rows travel to experts, or experts to rows, as the plan says, over torch.distributed.

parallelize        shares out the experts of a model of Hugging Face, in place
Session, MoELayer  the same for models of one's own
ProcessGroups      the plan's groups as process groups, for whoever moves tensors by other code
profile            routing and times of forward passes, for hepc --profile
load_balancing_loss  over the tokens of all ranks
"""
from .balance import load_balancing_loss
from .groups import GroupCarrier, ProcessGroups
from .huggingface import Parallel, parallelize
from .layer import MoELayer, apply_experts
from .profile import profile
from .session import ExpertShards, Session

__all__ = ["ExpertShards", "GroupCarrier", "MoELayer", "Parallel", "ProcessGroups", "Session", "apply_experts",
           "load_balancing_loss", "parallelize", "profile"]
