"""hep: plans for Mixture-of-Experts communication across slow links, in trainings that are yours.

`Plan.load` reads what hepc made, and says who owns and holds which experts, in which groups ranks meet, and what was
predicted. `hep.torch` runs plans in PyTorch: hep.torch.parallelize(model, plan) for models of Hugging Face. `Context`
is the library itself, on memory given by address. Failures raise `Error`.
"""
from . import _native
from .context import (BACKWARD, DROP, EXPANDED, NO_REGATHER, WEIGHTS_SAME, Carrier, Communicator, Context, Route,
                      Tensor, Times, has_mpi, nccl_id)
from .error import Error, Status
from .plan import (Codec, Dispatch, DType, GradientCodec, Group, GroupKind, Layer, Level, Plan, RowFormat, Share,
                   Traffic, Use)

__version__: str = _native.lib.hep_version().decode()

__all__ = ["BACKWARD", "DROP", "EXPANDED", "NO_REGATHER", "WEIGHTS_SAME", "Carrier", "Codec", "Communicator", "Context",
           "DType", "Dispatch", "Error", "GradientCodec", "Group", "GroupKind", "Layer", "Level", "Plan", "Route",
           "RowFormat", "Share", "Status", "Tensor", "Times", "Traffic", "Use", "has_mpi", "nccl_id"]
