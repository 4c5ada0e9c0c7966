"""Optimizer steps on eight processes under a plan (python_torch.py runs this), against the unchanged model in one
process on the same global batch: losses of all steps, gradients of the first, weights after the last. In bf16, where
choices of experts may not depend on roundings, they are those of a token's place, and one step is taken.
"""
import contextlib

import torch
import torch.distributed as dist
from python_families import EXPERTS, LAYERS, TOKENS, VOCABULARY, build

RANKS, TOP_K = 8, 2
TOLERANCE = 1e-5  # of the largest value: sums of f32 in another order; SGD does not enlarge what steps are off by
# In bf16 a value is rounded by 2^-8 of itself at most. In each layer, and each way through it, the sum over top_k experts
# and what it is added to may be rounded at other places: top_k + 1 roundings. Gradients of experts are rounded for each of
# the three times that sums of ranks are halved, and as they are sent.
ROUNDING = 2.0 ** -8
BF16_LOGITS = LAYERS * (TOP_K + 1) * ROUNDING
BF16_GRADIENTS = (2 * LAYERS * (TOP_K + 1) + 4) * ROUNDING


def batch(step, micro_batches):
    """[micro-batch, rank, sequence, token]"""
    generator = torch.Generator().manual_seed(50 + step)
    return torch.randint(3, VOCABULARY, (micro_batches, RANKS, 1, TOKENS), generator=generator)


def make(dtype):
    model = build("mixtral").to(dtype)
    if dtype == torch.bfloat16:
        for layer in model.model.layers:
            layer.mlp.gate.register_forward_hook(choose_by_place)
    return model


def choose_by_place(_module, _given, out):
    """A router whose choices are those of a token's place in its sequence, and whose weights are learned as ever."""
    logits = out[0]
    place = torch.arange(len(logits)) % TOKENS
    index = torch.stack([place % EXPERTS, (place * 3 + 1) % EXPERTS], 1)
    assert (index[:, 0] != index[:, 1]).all()
    return logits, torch.softmax(logits.float(), -1).gather(1, index).to(out[1].dtype), index


def optimizer_of(model):
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def run(model, batches, no_sync=contextlib.nullcontext):
    """Gradients of all micro-batches; their mean loss and logits."""
    total, logits = 0.0, []
    for index, tokens in enumerate(batches):
        with no_sync() if index + 1 < len(batches) else contextlib.nullcontext():
            out = model(input_ids=tokens, labels=tokens)
            (out.loss / len(batches)).backward()
        total += out.loss.item() / len(batches)
        logits.append(out.logits.detach().float())
    return total, torch.stack(logits)


class Reference:
    def __init__(self, micro_batches, steps, dtype=torch.float32):
        self.micro_batches, self.dtype = micro_batches, dtype
        model = make(dtype)
        optimizer = optimizer_of(model)
        self.losses = []
        for step in range(steps):
            loss, logits = run(model, batch(step, micro_batches).flatten(1, 2))
            self.losses.append(loss)
            if step == 0:
                self.logits = logits.view(micro_batches, RANKS, 1, TOKENS, -1)
                self.gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
            optimizer.step()
            optimizer.zero_grad()
        self.trained = {name: value.clone() for name, value in model.state_dict().items()}


def near(what, found, expected, tolerance):
    off = ((found.float() - expected.float()).abs().max() / expected.float().abs().max().clamp(min=1e-20)).item()
    assert off <= tolerance, "%s: differs by %g of the largest value, not %g" % (what, off, tolerance)
    return off


def check(parallelize, plan, reference, rank):
    """Returns how far the worst was off, of what was allowed."""
    model = make(reference.dtype)
    parallel = parallelize(model, plan, timeout_s=60)
    optimizer = optimizer_of(model)
    is_f32 = reference.dtype == torch.float32
    worst = 0.0
    for step, expected in enumerate(reference.losses):
        loss, logits = run(model, batch(step, reference.micro_batches)[:, rank], parallel.no_sync)
        parallel.average_dense_gradients()
        if step == 0:
            bound = TOLERANCE if is_f32 else BF16_LOGITS
            worst = max(worst, near("logits", logits, reference.logits[:, rank], bound) / bound)
            found = {name: parameter.grad for name, parameter in model.named_parameters()}
            found.update(parallel.gradients())
            bound = TOLERANCE if is_f32 else BF16_GRADIENTS
            for name, gradient in reference.gradients.items():
                worst = max(worst, near(name, found[name], gradient, bound) / bound)
        mean = torch.tensor(loss)
        dist.all_reduce(mean)
        assert abs(mean.item() / RANKS - expected) <= (TOLERANCE if is_f32 else BF16_LOGITS) * expected, (step, mean)
        optimizer.step()
        optimizer.zero_grad()
    if is_f32:
        for name, value in parallel.state_dict().items():
            worst = max(worst, near(name, value, reference.trained[name], TOLERANCE) / TOLERANCE)
    parallel.close()
    return worst
