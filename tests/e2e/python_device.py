"""hep.torch with transport "nccl" on four processes, on an emulated GPU each: a layer's results, gradients and optimizer
steps are bit for bit those over TCP. PyTorch sees no GPU here: for the emulation all memory is a GPU's, and what the
session asks of torch.cuda is answered by stand-ins.

python_device.py FOLDER: with plans in it, NAME.hepb.
"""
import glob
import os
import socket
import sys
import traceback

import torch
import torch.distributed as dist

import hep
import hep.torch
from hep.torch import groups, layer, session

RANKS, TOKENS, HIDDEN, INNER, STEPS = 4, 12, 16, 8, 3
FOLDER = sys.argv[1]
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    PORT = free.getsockname()[1]


def kernel(rows, index, weights, experts):
    """Of a row, the sum of weight x down(tanh(up(row))) over its experts."""
    count = experts["up"].shape[0]
    results = torch.zeros_like(rows)
    for k in range(index.shape[1]):
        held = index[:, k] < count
        of = index[held, k]
        inner = torch.tanh(torch.einsum("rh,rhi->ri", rows[held], experts["up"][of]))
        out = torch.einsum("ri,rih->rh", inner, experts["down"][of]) * weights[held, k:k + 1]
        results = results.index_add(0, held.nonzero().flatten(), out)
    return results


def train(plan, transport, rank):
    """All that the rank gets, in order."""
    generator = torch.Generator().manual_seed(7)
    made = hep.torch.Session(plan, timeout_s=30, transport=transport, max_tokens=TOKENS)
    assert (made.context.device >= 0) == (transport == "nccl")
    layers = [hep.torch.MoELayer(made, of, {
        "up": torch.randn(plan.experts, HIDDEN, INNER, generator=generator) / 4,
        "down": torch.randn(plan.experts, INNER, HIDDEN, generator=generator) / 4}, kernel)
        for of in range(plan.moe_layers)]
    optimizer = torch.optim.SGD([parameter for of in layers for parameter in of.parameters()], lr=0.1)
    generator.manual_seed(rank)
    got = []
    for _ in range(STEPS):
        x = torch.randn(TOKENS - 2 * rank, HIDDEN, generator=generator, requires_grad=True)
        choice = torch.rand(x.shape[0], plan.experts, generator=generator, requires_grad=True)
        weights, index = torch.topk(choice, plan.top_k)
        y = x
        for of in layers:
            y = y + of(y, index, weights)
        y.square().sum().backward()
        got += [y.detach(), x.grad, choice.grad] + [parameter.grad.clone() for of in layers for parameter in of.parameters()]
        optimizer.step()
        optimizer.zero_grad()
    state = made.codec_state()
    got += list(state.values())
    assert made.load_codec_state(state) == bool(state)
    levels, _ = made.count()
    got.append(torch.tensor([[of.exchange, of.gather, of.reduce] for of in levels], dtype=torch.float64))
    made.close()
    return got


def pretend(rank):
    """Tensors are on GPU `rank`, as far as hep.torch can see."""
    def describe(tensor, rows=None):
        found = plain(tensor, rows)
        return hep.Tensor(found.address, found.rows, found.cols, found.dtype, found.stride, rank)

    plain = groups.describe
    layer.describe = session.describe = describe
    torch.cuda.is_available = lambda: True
    torch.cuda.current_device = lambda: rank
    torch.cuda.current_stream = lambda device: type("Stream", (), {"cuda_stream": 0})


def refuse(rank, plan):
    """Tensors that are not where the context's are: before any of the library's calls."""
    made = hep.torch.Session(plan, timeout_s=30, transport="nccl", max_tokens=TOKENS)
    x = groups.describe(torch.zeros(1, HIDDEN))
    try:
        made.context.dense_gather(x, x)
        raise AssertionError("host memory was taken for a GPU's")
    except hep.Error as error:
        assert error.status == hep.Status.BAD_ARGUMENT and "memory of GPU %d" % rank in str(error), error
    made.close()


def work(rank):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(PORT))
    dist.init_process_group("gloo", rank=rank, world_size=RANKS)
    plans = sorted(glob.glob(os.path.join(FOLDER, "*.hepb")))
    assert plans
    try:
        hep.torch.Session(hep.Plan.load(plans[0]), transport="nccl")
        raise AssertionError("a session without a GPU")
    except hep.Error as error:
        assert error.status == hep.Status.UNSUPPORTED, error
    over_tcp = [train(hep.Plan.load(path), "tcp", rank) for path in plans]
    pretend(rank)
    for path, expected in zip(plans, over_tcp):
        got = train(hep.Plan.load(path), "nccl", rank)
        assert len(got) == len(expected) > 3 * STEPS
        for number, (of, should) in enumerate(zip(got, expected)):
            assert torch.equal(of, should), "%s, rank %d: tensor %d differs" % (path, rank, number)
    refuse(rank, hep.Plan.load(plans[0]))
    dist.destroy_process_group()


def main():
    torch.set_num_threads(1)
    children = []
    for rank in range(RANKS):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                work(rank)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    codes = [os.waitpid(child, 0)[1] for child in children]
    assert not any(codes), codes
    print("all good")


main()
