"""Options by which a job of Megatron-LM or torchtitan places experts as a plan does, without running it: the experts that
a rank holds once they are gathered are its own from the start, and ranks that hold the same are replicas.

    python3 -m hep.adapters.options plan.hepb megatron|torchtitan
"""
from __future__ import annotations

import sys

from ..error import Error, Status
from ..plan import Plan


def expert_parallel_degree(plan: Plan) -> int:
    """Ranks that hold all experts together. Both frameworks take them from ranks that follow one another, alike in every
    layer; a plan that places them otherwise raises Error with Status.UNSUPPORTED."""
    degrees = set()
    for layer in range(plan.moe_layers):
        held = [plan.held(layer, rank) for rank in range(plan.ranks)]
        degree = plan.experts // len(held[0])
        degrees.add(degree)
        for rank, experts in enumerate(held):
            if experts.start != rank % degree * len(experts):
                raise Error(Status.UNSUPPORTED, "rank %d holds experts %d to %d of layer %d: expert-parallel ranks do not "
                            "follow one another" % (rank, experts.start, experts.stop - 1,
                                                    plan.layers[layer].model_layer), rank)
    if len(degrees) != 1:
        raise Error(Status.UNSUPPORTED, "layers place experts over %s ranks: options are the same for all"
                    % " and ".join(str(degree) for degree in sorted(degrees)))
    return degrees.pop()


def megatron(plan: Plan) -> list[str]:
    """Of Megatron-LM's pretrain scripts."""
    return ["--num-experts", str(plan.experts), "--moe-router-topk", str(plan.top_k),
            "--expert-model-parallel-size", str(expert_parallel_degree(plan)), "--moe-token-dispatcher-type", "alltoall"]


def torchtitan(plan: Plan) -> list[str]:
    """Of torchtitan's train.py."""
    return ["--parallelism.expert_parallel_degree", str(expert_parallel_degree(plan))]


def main() -> None:
    if len(sys.argv) != 3 or sys.argv[2] not in ("megatron", "torchtitan"):
        sys.exit("usage: python3 -m hep.adapters.options PLAN megatron|torchtitan")
    try:
        print(*{"megatron": megatron, "torchtitan": torchtitan}[sys.argv[2]](Plan.load(sys.argv[1])))
    except Error as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
