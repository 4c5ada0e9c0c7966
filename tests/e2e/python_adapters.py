"""Adapters of hep in the real packages, on four processes: an MoE layer with hep's token dispatcher computes what it does
with the framework's own, results and gradients; what plans do not know of is refused. Megatron-Core's own dispatchers
communicate on GPUs alone, so its layer is compared with one that has all experts.

python_adapters.py FOLDER megatron|torchtitan: plans of EP and of experts that are gathered, FOLDER/ep.hepb and
FOLDER/gather.hepb, of one layer: hidden 32, 8 experts, top 2, inner 40. Where the package cannot be imported, the exit
code is 77 and the last line says why.
"""
import gc
import importlib
import os
import sys
import traceback
import warnings

import torch
import torch.distributed as dist

warnings.filterwarnings("ignore")
RANKS, HIDDEN, EXPERTS, TOP_K, INNER = 4, 32, 8, 2, 40
FOLDER, KIND = sys.argv[1:]


def near(what, found, expected):
    off = (found - expected).abs().max() / expected.abs().max().clamp(min=1e-20) if expected.numel() else 0
    assert found.shape == expected.shape and off <= 1e-5, "%s: differs by %g of the largest value" % (what, off)


def refuses(words, function):
    import hep
    try:
        function()
    except hep.Error as error:
        assert words in str(error), error
    else:
        raise AssertionError("nothing was raised: " + words)


def results_of(run, x, parameters):
    """Output and gradients of input and weights."""
    x = x.clone().requires_grad_()
    for parameter in parameters:
        parameter.grad = None
    y = run(x)
    (y * torch.linspace(0.5, 1.5, y.shape[-1])).square().sum().backward()
    return [y.detach(), x.grad, *[parameter.grad.clone() for parameter in parameters if parameter.grad is not None]]


def check(use_plan, model, run, x, expected):
    """The model under the plan gives what is expected; it is not taken under one by which experts travel."""
    import hep
    import hep.torch
    assert len(expected) > 4 and all(value.abs().sum() > 0 for value in expected)
    gathers = hep.torch.Session(hep.Plan.load(FOLDER + "/gather.hepb"), timeout_s=30)
    refuses("the plan gathers experts of layer 0", lambda: use_plan(model, gathers))
    gathers.close()
    session = hep.torch.Session(hep.Plan.load(FOLDER + "/ep.hepb"), timeout_s=30)
    use_plan(model, session)
    found = results_of(run, x, list(model.parameters()))
    assert len(found) == len(expected), (len(found), len(expected))
    for index, (one, other) in enumerate(zip(found, expected)):
        near("result %d" % index, one, other)
    assert sum(level.exchange for level in session.count()[0]) > 0
    session.close()


# ---- Megatron-Core -----------------------------------------------------------------------------------------------


def megatron(rank):
    from megatron.core.models.gpt.moe_module_specs import get_moe_module_spec
    from megatron.core.transformer.moe.moe_layer import MoELayer
    from megatron.core.transformer.transformer_config import TransformerConfig

    import hep.adapters.megatron

    alone = dist.new_group([rank], use_local_synchronization=True)

    class Groups:
        def __init__(self, experts):
            self.ep = self.tp_ep = experts

        def __getattr__(self, name):
            return alone

    def build(ranks, **more):
        config = TransformerConfig(
            num_layers=1, hidden_size=HIDDEN, num_attention_heads=4, num_moe_experts=EXPERTS, moe_router_topk=TOP_K,
            moe_ffn_hidden_size=INNER, ffn_hidden_size=INNER, expert_model_parallel_size=ranks, gated_linear_unit=True,
            activation_func=torch.nn.functional.silu, add_bias_linear=False, use_cpu_initialization=True,
            moe_router_load_balancing_type="none", moe_token_dispatcher_type="allgather", **more)
        spec = get_moe_module_spec(use_te=False, num_experts=EXPERTS, moe_grouped_gemm=False)
        groups = Groups(alone if ranks == 1 else dist.group.WORLD)
        # A ModuleSpec, or in later versions a partial MoELayer.
        submodules = spec.submodules if hasattr(spec, "submodules") else spec.keywords["submodules"]
        layer = MoELayer(config, submodules=submodules, layer_number=1, pg_collection=groups)
        layer.router.gating = lambda rows: rows @ layer.router.weight.T  # its own moves weights to a GPU
        with torch.no_grad():
            layer.router.weight.copy_(torch.randn(EXPERTS, HIDDEN, generator=torch.Generator().manual_seed(1)))
            for index, expert in zip(layer.local_expert_indices, layer.experts.local_experts):
                generator = torch.Generator().manual_seed(100 + index)
                for parameter in expert.parameters():
                    parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        return layer

    x = torch.randn(2 + rank, 1, HIDDEN, generator=torch.Generator().manual_seed(10 + rank))
    whole, layer = build(1), build(RANKS)
    y, dx, drouter, *_ = results_of(lambda rows: whole(rows)[0], x, [
        whole.router.weight, *whole.experts.parameters()])
    per_expert = len(list(whole.experts.parameters())) // EXPERTS
    expected = []
    for parameter in whole.experts.parameters():  # of experts that no token of this rank has: none
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        dist.all_reduce(gradient)
        expected.append(gradient)
    own = per_expert * (EXPERTS // RANKS)
    check(hep.adapters.megatron.use_plan, layer, lambda rows: layer(rows)[0], x,
          [y, dx, drouter, *expected[rank * own:(rank + 1) * own]])
    session = hep.torch.Session(hep.Plan.load(FOLDER + "/ep.hepb"), timeout_s=30)
    refuses("plans do not know of a capacity",
            lambda: hep.adapters.megatron.use_plan(build(RANKS, moe_expert_capacity_factor=1.0), session))
    session.close()


# ---- torchtitan --------------------------------------------------------------------------------------------------


def torchtitan(rank):
    from torch.distributed.device_mesh import init_device_mesh
    from torchtitan.models.common.token_dispatcher import AllToAllTokenDispatcher

    from torchtitan.distributed.utils import set_spmd_backend
    from torchtitan.models.common.moe import RoutedExperts

    import hep.adapters.torchtitan

    set_spmd_backend("default")  # no annotations of types, which need torchtitan's trainer
    mesh = init_device_mesh("cpu", (RANKS,), mesh_dim_names=("ep",))

    class Experts(torch.nn.Module):
        """In the place of GroupedExperts, whose products are for GPUs."""

        def __init__(self):
            super().__init__()
            generator = torch.Generator().manual_seed(100 + rank)
            self.up = torch.nn.Parameter(torch.randn(EXPERTS // RANKS, HIDDEN, INNER, generator=generator))
            self.down = torch.nn.Parameter(torch.randn(EXPERTS // RANKS, INNER, HIDDEN, generator=generator))

        def forward(self, rows, counts):
            parts = rows.split(counts.tolist())
            return torch.cat([torch.tanh(part @ up) @ down for part, up, down in zip(parts, self.up, self.down)])

    class Layer(RoutedExperts):
        def __init__(self):
            torch.nn.Module.__init__(self)
            self.inner_experts = Experts()
            self.token_dispatcher = AllToAllTokenDispatcher(AllToAllTokenDispatcher.Config(num_experts=EXPERTS,
                                                                                           top_k=TOP_K))
            self.token_dispatcher.wire_meshes(ep_mesh=mesh)
            self.gate = torch.nn.Parameter(torch.randn(HIDDEN, EXPERTS, generator=torch.Generator().manual_seed(3)))

    layer = Layer()

    def run(x):
        scores, index = torch.softmax(x @ layer.gate, -1).topk(TOP_K, -1)
        counts = torch.bincount(index.flatten(), minlength=EXPERTS)
        return layer(x, scores, index, counts)

    x = torch.randn(1, 3 + rank, HIDDEN, generator=torch.Generator().manual_seed(10 + rank))
    expected = results_of(run, x, list(layer.parameters()))
    check(hep.adapters.torchtitan.use_plan, layer, run, x, expected)


# What takes long to import is, before processes are forked.
PACKAGE = {"megatron": ["megatron.core.transformer.moe.moe_layer", "megatron.core.models.gpt.moe_module_specs"],
           "torchtitan": ["torchtitan.models.common.moe", "torchtitan.models.common.token_dispatcher"]}


def import_all():
    try:
        importlib.import_module(PACKAGE[KIND][0])
    except Exception as error:
        print(error)
        sys.exit(77)
    for module in [*PACKAGE[KIND][1:], "hep.torch", "hep.adapters." + KIND]:
        importlib.import_module(module)


def main():
    torch.set_num_threads(1)
    import_all()
    gc.freeze()
    children = []
    for rank in range(RANKS):
        child = os.fork()
        if child == 0:
            try:
                dist.init_process_group("gloo", init_method="file://%s/%s" % (FOLDER, KIND), rank=rank, world_size=RANKS)
                {"megatron": megatron, "torchtitan": torchtitan}[KIND](rank)
                dist.barrier()
            except BaseException:
                print("rank %d:\n%s" % (rank, traceback.format_exc()), flush=True)
                os._exit(1)
            os._exit(0)
        children.append(child)
    if any([os.waitpid(child, 0)[1] for child in children]):
        sys.exit(1)
    print(KIND + ": all good")


main()
