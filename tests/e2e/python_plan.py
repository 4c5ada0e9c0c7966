"""The package hep without PyTorch: structs, facts of a plan, errors.

python_plan.py PLAN LAYOUT SIZES: of samples/laptop_training.hep with domains site=1, gpu=2
"""
import ctypes
import json
import sys
import threading

import hep
from hep import _native


def check_structs(path):
    sizes = dict(line.split() for line in open(path, encoding="utf-8"))
    assert set(_native.RECORDS) == set(sizes) - {"hep_status"}, sizes
    for name, record in _native.RECORDS.items():
        assert ctypes.sizeof(record) == int(sizes[name]), (name, ctypes.sizeof(record))


def check_facts(plan):
    assert (plan.ranks, plan.moe_layers, plan.model_layers, plan.experts, plan.top_k) == (8, 3, 3, 8, 2), plan
    assert (plan.hidden, plan.inner, plan.micro_batches, plan.tokens) == (64, 512, 4, 512), plan
    assert plan.expert_elements == 2 * 64 * 512, plan.expert_elements
    assert plan.dtype == hep.DType.F32 and plan.training and not plan.padded and not plan.replica_levels
    assert [(level.name, level.count) for level in plan.levels] == [("site", 2), ("gpu", 4)], plan.levels
    assert plan.levels[0].bandwidth_bytes_per_s == 100e6 / 8 and plan.levels[0].latency_s == 1e-3
    layer = plan.layers[2]
    assert (layer.index, layer.model_layer, layer.domain, layer.own, layer.gathered) == (2, 2, (1, 2), 1, 2), layer
    assert (layer.hops, layer.gathers, layer.regather) == (2, 1, False), layer
    assert plan.held(0, 5) == range(4, 6) and plan.owned(0, 5) == range(5, 6) and plan.owner(0, 6) == 6
    assert plan.share(1, 3) == hep.Share(3 * 65536, 65536), plan.share(1, 3)
    # Both exchanges multiply rows: by 2 sites, and by 2 parts of a site, as every token may have an expert in each.
    assert plan.rows_bound(0, 10) == 40, plan.rows_bound(0, 10)
    # A token's row crosses to the other site if one of its two experts, of 8, is among its 4.
    crossing = 512 * 64 * 4 * (1 - 4 * 3 / (8 * 7)) * 4 * 3 * 4 # bytes of a pass; 4 passes, 3 layers, 4 micro-batches
    assert abs(plan.traffic(0).exchange / crossing - 1) < 1e-9, (plan.traffic(0), crossing)


def check_layout(plan, layout):
    """What the library says and what hepc writes are the same."""
    kinds = {kind: kind.name.lower() for kind in hep.GroupKind}
    assert [[list(ranks) for ranks in group.sets] for group in plan.groups] == [g["sets"] for g in layout["groups"]]
    assert [kinds[group.kind] for group in plan.groups] == [group["kind"] for group in layout["groups"]]
    for layer, written in zip(plan.layers, layout["layers"]):
        placement = layout["placements"][written["placement"]]
        assert list(layer.domain) == placement["domain"], layer
        for use in hep.Use:
            assert [g.index for g in plan.crossings(layer.index, use)] == written[use.name.lower()], (layer, use)
        for block in placement["blocks"]:
            for rank in block["holders"]:
                assert plan.held(layer.index, rank) == range(block["first"], block["first"] + block["count"])
            for expert, owners in enumerate(block["owners"], block["first"]):
                assert [rank for rank in range(plan.ranks) if expert in plan.owned(layer.index, rank)] == owners


def fails(status, words, function):
    try:
        function()
    except hep.Error as error:
        assert error.status == status and words in str(error), error
    else:
        raise AssertionError("nothing was raised: " + words)


def check_errors(plan, path):
    fails(hep.Status.IO, "none.hepb: No such file or directory", lambda: hep.Plan.load("none.hepb"))
    fails(hep.Status.BAD_PLAN, "not a usable plan", lambda: hep.Plan.parse(open(path, "rb").read()[:100]))
    fails(hep.Status.BAD_ARGUMENT, "layer 3: the plan has 3", lambda: plan.held(3, 0))
    fails(hep.Status.BAD_ARGUMENT, "rank 8: the plan is for 8 ranks", lambda: plan.share(0, 8))
    fails(hep.Status.BAD_ARGUMENT, "expert 8: the plan has 8", lambda: plan.owner(0, 8))
    fails(hep.Status.BAD_ARGUMENT, "-1 tokens", lambda: plan.rows_bound(0, -1))
    # The record is of the thread that failed.
    seen = []
    thread = threading.Thread(target=lambda: fails(hep.Status.IO, "other.hepb", lambda: hep.Plan.load("other.hepb"))
                              or seen.append(True))
    thread.start()
    thread.join()
    assert seen == [True]


def main():
    path, layout, sizes = sys.argv[1:]
    check_structs(sizes)
    plan = hep.Plan.load(path)
    assert hep.Plan.parse(open(path, "rb").read()).digest == plan.digest
    check_facts(plan)
    check_layout(plan, json.load(open(layout, encoding="utf-8")))
    check_errors(plan, path)


main()
