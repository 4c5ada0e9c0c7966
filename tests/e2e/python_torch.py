"""hep.torch in real models: four processes over gloo train what one process trains unchanged, on the same global batch.

python_torch.py FOLDER SCRIPT ARGUMENTS...: with config.json of the folders mixtral, six (experts) and qwen3_moe, and
plans KIND.NAME.hepb for two sites of two ranks. Then the script is run: by itself, and by torchrun with --plan plan.hepb.
What it prints goes to the files alone and shared. Processes are forked after all is imported, as that takes longer than
what they do; torchrun's, too, by its own agent. HEP_TORCH_CASES: names of cases, separated by commas; all.
"""
import contextlib
import gc
import json
import os
import re
import runpy
import signal
import socket
import sys
import threading
import time
import traceback

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from transformers import AutoConfig, AutoModelForCausalLM

import hep
import hep.torch
import python_families
import python_steps
import transformers.integrations.moe  # noqa: F401 (parallelize would import it in each process)

RANKS, SEQUENCES, TOKENS, VOCABULARY = 4, 2, 12, 96
TOLERANCE = 1e-5  # of the largest value: sums of f32 in another order
FOLDER = sys.argv[1]
IS_LONG = bool(os.environ.get("HEP_TORCH_LONG"))  # all families, 20 steps
CASES = [name for name in os.environ.get("HEP_TORCH_CASES", "").split(",") if name]
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    PORT = free.getsockname()[1]


def build(kind):
    torch.manual_seed(5)
    config = AutoConfig.from_pretrained(os.path.join(FOLDER, kind))
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()


def batch(micro_batches):
    """Tokens [micro-batch, rank, sequence, token]."""
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, VOCABULARY, (micro_batches, RANKS, SEQUENCES, TOKENS), generator=generator)


def load(kind, name):
    return hep.Plan.load(os.path.join(FOLDER, "%s.%s.hepb" % (kind, name)))


def error(found, expected):
    assert found.shape == expected.shape, (found.shape, expected.shape)
    return ((found - expected).abs().max() / expected.abs().max().clamp(min=1e-20)).item()


def near(what, found, expected, tolerance=TOLERANCE):
    is_near = error(found, expected) <= tolerance
    assert is_near, "%s: differs by %g of the largest value" % (what, error(found, expected))


# ---- what one process computes -----------------------------------------------------------------------------------


class Reference:
    """Losses, logits and gradients of the unchanged model, and what it is after steps of AdamW."""

    STEPS = 3

    def __init__(self, kind, micro_batches, balance=False):
        self.kind, self.micro_batches, self.balance = kind, micro_batches, balance
        model = build(kind)
        self.initial = {name: value.clone() for name, value in model.state_dict().items()}
        optimizer = make_optimizer(model.parameters())
        self.losses = []
        for step in range(self.STEPS):
            loss, logits = self.run(model)
            self.losses.append(loss)
            if step == 0:
                self.logits = logits
                self.gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
                self.norm = nn.utils.clip_grad_norm_(model.parameters(), 1e9)
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            self.trained = model(input_ids=batch(1)[0].reshape(-1, TOKENS)).logits

    def run(self, model):
        tokens, logits, total = batch(self.micro_batches), [], 0
        for micro_batch in tokens.reshape(self.micro_batches, -1, TOKENS):
            out = model(input_ids=micro_batch, labels=micro_batch, output_router_logits=self.balance)
            (out.loss / self.micro_batches).backward()
            logits.append(out.logits.detach())
            total += out.loss.item() / self.micro_batches
        return total, torch.stack(logits)


def make_optimizer(parameters):
    return torch.optim.AdamW(parameters, lr=1e-2, eps=1e-3, foreach=False)


# ---- the same on four --------------------------------------------------------------------------------------------


def train(parallel, reference, model=None):
    """One iteration of this rank: the loss and the logits of its sequences."""
    model, rank = parallel.model if model is None else model, parallel.session.rank
    count, logits, total = reference.micro_batches, [], 0
    ddp = model if isinstance(model, nn.parallel.DistributedDataParallel) else None
    for index, tokens in enumerate(batch(count)[:, rank]):
        with parallel.no_sync(ddp) if index + 1 < count else contextlib.nullcontext():
            out = model(input_ids=tokens, labels=tokens, output_router_logits=reference.balance)
            (out.loss / count).backward()
        logits.append(out.logits.detach())
        total += out.loss.item() / count
    total = torch.tensor(total)
    dist.all_reduce(total)
    return total.item() / RANKS, torch.stack(logits)


def check_gradients(parallel, reference):
    experts = parallel.gradients()
    of_model = dict(parallel.model.named_parameters())
    assert set(experts) | (set(of_model) - set(parallel.expert_names())) == set(reference.gradients)
    for name, expected in reference.gradients.items():
        near(name, experts[name] if name in experts else of_model[name].grad, expected)


def check_state(parallel, reference):
    """The state is that of the unchanged model, bit for bit; what is loaded comes out again."""
    state = parallel.state_dict()
    assert list(state) and set(state) == set(reference.initial)
    for name, value in reference.initial.items():
        assert torch.equal(state[name], value), name
    other = {name: value + 1 for name, value in state.items()}
    parallel.load_state_dict(other)
    assert all(torch.equal(value, other[name]) for name, value in parallel.state_dict().items())
    parallel.load_state_dict(reference.initial)


def scenario(name, reference, with_ddp=False, checkpointing=None, transport="auto"):
    model = build(reference.kind)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": checkpointing == "reentrant"})
    plan = load(reference.kind, name)
    parallel = hep.torch.parallelize(model, plan, timeout_s=60, transport=transport)
    check_state(parallel, reference)
    wrapped = parallel.ddp() if with_ddp else model
    optimizer = make_optimizer(model.parameters())
    for step in range(Reference.STEPS):
        if step == 1:
            parallel.count(reset=True)
        loss, logits = train(parallel, reference, wrapped)
        if step == 1 and not checkpointing:
            check_bytes(parallel)
        assert abs(loss - reference.losses[step]) < TOLERANCE, (name, step, loss, reference.losses)
        if not with_ddp:
            parallel.average_dense_gradients()
        if step == 0:
            rank = parallel.session.rank
            near("logits", logits, reference.logits.view(-1, RANKS, SEQUENCES, *logits.shape[2:])[:, rank])
            check_gradients(parallel, reference)
            near("norm", parallel.clip_grad_norm_(1e9), reference.norm)
        optimizer.step()
        optimizer.zero_grad()
    check_trained(parallel, reference)
    parallel.close()


def check_bytes(parallel):
    """Experts and their gradients cost what the plan says, in one iteration of all micro-batches; rows may vary."""
    counted, _ = parallel.count()
    for level, traffic in enumerate(counted):
        planned = parallel.plan.traffic(level)
        assert traffic.reduce == planned.reduce, (level, traffic, planned)
        if parallel.plan.micro_batches == 1 or not any(of.regather for of in parallel.plan.layers):
            assert traffic.gather == planned.gather, (level, traffic, planned)
        assert bool(traffic.exchange) == bool(planned.exchange), (level, traffic, planned)


def check_trained(parallel, reference):
    """After the steps: the shared model in evaluation, and an unchanged one that loads its state, with each other bit
    for bit and with the reference's."""
    tokens = batch(1)[0]
    plain = build(reference.kind)
    plain.load_state_dict(parallel.state_dict())
    with torch.no_grad():
        found = parallel.model(input_ids=tokens[parallel.session.rank]).logits
        near("loaded", plain(input_ids=tokens[parallel.session.rank]).logits, found)
    expected = reference.trained.view(RANKS, SEQUENCES, *found.shape[1:])[parallel.session.rank]
    near("trained", found, expected, 1e-4)  # steps of AdamW enlarge the last digits of small gradients


def compressed(reference):
    """Experts and gradients as packets. The first ones are whole: logits are the reference's. What is saved with what
    codecs remember goes on with the same losses, bit for bit."""
    model = build(reference.kind)
    parallel = hep.torch.parallelize(model, load(reference.kind, "packed"), timeout_s=60)
    assert parallel.plan.codec == hep.Codec.Q4 and parallel.plan.gradient_codec == hep.GradientCodec.Q4

    def step(of):
        parallel.count(reset=True)
        loss, logits = train(of, reference)
        of.average_dense_gradients()
        with torch.no_grad():
            for parameter in of.model.parameters():
                parameter -= 0.05 * parameter.grad
                parameter.grad = None
        of.weights_changed()
        return loss, logits

    losses = []
    for index in range(4):
        if index == 2:
            saved = {name: value.clone() for name, value in parallel.state_dict().items()}
            remembered = parallel.codec_state()
        loss, logits = step(parallel)
        losses.append(loss)
        if index == 0:
            near("logits", logits, reference.logits.view(-1, RANKS, SEQUENCES, *logits.shape[2:])[:, parallel.session.rank])
        if index:
            check_bytes(parallel)
    assert losses == sorted(losses, reverse=True), losses
    ranks = [None] * RANKS
    dist.all_gather_object(ranks, sorted(remembered))
    assert len(remembered) == 1 and len({name for names in ranks for name in names}) == RANKS, ranks
    parallel.load_state_dict(saved)
    assert parallel.load_codec_state(remembered)
    assert [step(parallel)[0] for _ in range(2)] == losses[2:]
    # A rank that has none: all begin anew, with whole packets.
    parallel.load_state_dict(saved)
    assert not parallel.load_codec_state({} if parallel.session.rank == 1 else remembered)
    begun = step(parallel)[0]
    assert begun != losses[2] and abs(begun - losses[2]) < 1e-3, (begun, losses)
    parallel.close()


def overfull(kind):
    """More tokens choose an expert than padded messages can hold: an error, or dropped."""
    rank, tokens = dist.get_rank(), batch(1)[0, dist.get_rank()]
    parallel = hep.torch.parallelize(build(kind), load(kind, "narrow"), timeout_s=10, drop=True)
    assert parallel.plan.padded and parallel.plan.capacity == 1
    dropped = parallel.model(input_ids=tokens).logits
    assert bool(dropped.isfinite().all())
    dropped.sum().backward()
    near("more room", dropped, build(kind)(input_ids=tokens).logits, 1)
    parallel.close()
    dist.barrier()
    parallel = hep.torch.parallelize(build(kind), load(kind, "narrow"), timeout_s=10)
    raises([hep.Status.BAD_ARGUMENT], "times by tokens of this rank", lambda: parallel.model(input_ids=tokens))
    dist.barrier()
    assert error(dropped.detach(), build(kind)(input_ids=tokens).logits.detach()) > 1e-3, rank


def uneven(kind):
    """Ranks with different numbers of tokens, and one that has one token of one expert at most: nobody waits."""
    reference = build(kind)
    model = build(kind)
    parallel = hep.torch.parallelize(model, load(kind, "ep"), timeout_s=60, gradient_scale=1)
    rank = parallel.session.rank
    lengths = [9, 1, 5, 3]
    generator = torch.Generator().manual_seed(8)
    rows = [torch.randint(0, VOCABULARY, (1, length), generator=generator) for length in lengths]
    for tokens in rows:
        reference(input_ids=tokens).logits.square().sum().backward()
    model(input_ids=rows[rank]).logits.square().sum().backward()
    expected = {name: parameter.grad for name, parameter in reference.named_parameters()}
    for name, gradient in parallel.gradients().items():
        near(name, gradient, expected[name])
    model.eval()
    with torch.no_grad():
        for length in (0, lengths[rank]):  # none at all, for the layer itself
            layer = parallel.session.shards[0]
            x = torch.zeros(length, parallel.plan.hidden)
            choice = torch.zeros(length, parallel.plan.top_k, dtype=torch.long) + torch.arange(parallel.plan.top_k)
            y = model.model.layers[0].mlp.experts(x, choice, torch.ones(length, parallel.plan.top_k))
            assert y.shape == x.shape and layer is not None
    parallel.close()


def autocast(kind):
    """Rows travel in f32, experts compute in bf16: as one process does, but for choices that a last digit flips."""
    one, model = build(kind), build(kind)
    parallel = hep.torch.parallelize(model, load(kind, "ep"), timeout_s=60)
    tokens = batch(1)[0]
    with torch.autocast("cpu", torch.bfloat16):
        alone = one(input_ids=tokens.reshape(-1, TOKENS), labels=tokens.reshape(-1, TOKENS))
        out = model(input_ids=tokens[parallel.session.rank], labels=tokens[parallel.session.rank])
    out.loss.backward()
    alone.loss.backward()
    expected = alone.logits.detach().view(RANKS, SEQUENCES, TOKENS, -1)
    expected = expected[parallel.session.rank].float()
    differs = (out.logits.float() - expected).abs().amax(-1) > 0.05 * expected.abs().max()
    assert differs.float().mean() <= 0.1, differs.float().mean()
    of_one = dict(one.named_parameters())
    for name, gradient in parallel.gradients().items():
        assert gradient.dtype == torch.float32
        off = (gradient - of_one[name].grad).norm() / of_one[name].grad.norm()
        assert off < 0.15, (name, off)
    parallel.close()


def frozen(kind, reference):
    """Experts that are not trained return no gradients; all else has its own."""
    model = build(kind)
    for layer in model.model.layers:
        layer.mlp.experts.requires_grad_(False)
    parallel = hep.torch.parallelize(model, load(kind, "hybrid"), timeout_s=60)
    for index in range(reference.micro_batches):
        tokens = batch(reference.micro_batches)[index, parallel.session.rank]
        (model(input_ids=tokens, labels=tokens).loss / reference.micro_batches).backward()
    parallel.average_dense_gradients()
    for name, parameter in model.named_parameters():
        if name in parallel.expert_names():
            assert parameter.grad is None, name
        else:
            near(name, parameter.grad, reference.gradients[name])
    assert sum(traffic.reduce for traffic in parallel.count()[0]) == 0
    parallel.close()


def plain_experts(rows, index, weights, experts):
    """A kernel of one's own: relu between two matrices."""
    out = torch.zeros_like(rows)
    for expert in range(len(experts["up"])):
        row, place = (index == expert).nonzero(as_tuple=True)
        inner = torch.relu(rows[row] @ experts["up"][expert].T) @ experts["down"][expert].T
        out = out.index_add(0, row, inner * weights[row, place].unsqueeze(1))
    return out


def layers(rank):
    """MoELayer, with a last rank that has no tokens: against the same kernel on all experts and rows."""
    plan = load("mixtral", "unlike")
    generator = torch.Generator().manual_seed(2)
    up, down = (torch.randn(8, *shape, generator=generator) for shape in ((72, 32), (32, 72)))
    counts = [5, 1, 7, 0]
    x = [torch.randn(count, 32, generator=generator) for count in counts]
    index = [torch.stack([torch.randperm(8, generator=generator)[:2] for _ in range(count)])
             if count else torch.empty(0, 2, dtype=torch.long) for count in counts]
    gate = [torch.rand(count, 2, generator=generator) for count in counts]
    session = hep.torch.Session(plan, timeout_s=60, gradient_scale=1)
    made = nn.ModuleList([hep.torch.MoELayer(session, k, {"up": up + k, "down": down}, plain_experts) for k in range(4)])
    rows, weights = x[rank].requires_grad_(), gate[rank].requires_grad_()
    y = rows
    for layer in made:
        y = y + layer(y, index[rank], weights) / 100
    y.square().sum().backward()
    whole = [torch.nn.Parameter(up + k) for k in range(4)]
    all_rows = torch.cat([part.detach() for part in x]).requires_grad_()
    all_gates = torch.cat([part.detach() for part in gate]).requires_grad_()
    expected = all_rows
    for k in range(4):
        expected = expected + plain_experts(expected, torch.cat(index), all_gates, {"up": whole[k], "down": down}) / 100
    expected.square().sum().backward()
    place = slice(sum(counts[:rank]), sum(counts[:rank + 1]))
    if counts[rank]:
        near("y", y, expected[place])
        near("x", rows.grad, all_rows.grad[place])
        near("gate", weights.grad, all_gates.grad[place])
    for k, layer in enumerate(made):
        owned = plan.owned(k, rank)
        near("up", layer.up.grad, whole[k].grad[owned.start:owned.stop])
    raises([hep.Status.BAD_ARGUMENT], "rows of 31 elements", lambda: made[0](torch.zeros(2, 31), index[0][:2], gate[0][:2]))
    raises([hep.Status.BAD_CALL], "layer 0 has its experts", lambda: session.add(0, {"up": up, "down": down}))
    session.close()
    raises([hep.Status.BAD_CALL], "the context was closed", lambda: made[0](rows, index[rank], weights))


# ---- misuse: an exception on every rank, within the time-out ---------------------------------------------------------


def raises(status, words, function, within_s=20):
    begin = time.monotonic()
    try:
        function()
    except hep.Error as failed:
        assert failed.status in status and words in str(failed), failed
        assert time.monotonic() - begin < within_s, time.monotonic() - begin
        return failed
    raise AssertionError("nothing was raised: " + words)


def misuse_alike(rank):
    """What a rank finds by itself, whatever others do."""
    S = hep.Status
    model = build("mixtral")
    raises([S.BAD_PLAN], "made for another model: width of an expert: 40, the model's 48",
           lambda: hep.torch.parallelize(model, load("qwen3_moe", "ep")))
    raises([S.BAD_PLAN], "is torch.bfloat16, the plan is for torch.float32",
           lambda: hep.torch.parallelize(build("mixtral").bfloat16(), load("mixtral", "ep")))
    raises([S.BAD_PLAN], "the plan is for 8 ranks, the process group has 4",
           lambda: hep.torch.Session(load("mixtral", "eight")))
    for odd, words in python_families.refused(rank, RANKS):
        before = list(odd.state_dict())
        raises([S.UNSUPPORTED], words, lambda: hep.torch.parallelize(odd, load("families", "hybrid")))
        assert list(odd.state_dict()) == before and not any("forward" in of.__dict__ and python_families.is_experts(of)
                                                            for of in odd.modules()), words
    raises([S.UNSUPPORTED], "no model of transformers", lambda: hep.torch.parallelize(nn.Linear(2, 2), load("mixtral", "ep")))
    experts = model.model.layers[1].mlp.experts
    experts.act_fn = nn.ReLU()  # of this module alone: what is kept of it does as it does, and is no fault
    experts._apply_gate = lambda gate_up: gate_up.chunk(2, -1)[0] * torch.arange(gate_up.shape[0]).unsqueeze(1)
    model.config._experts_implementation = "batched_mm"
    raises([S.UNSUPPORTED], "'model.layers.1.mlp.experts' computes its experts in another way",
           lambda: hep.torch.parallelize(model, load("mixtral", "ep")))


def misuse_skips(rank, transport):
    """One rank leaves a layer out: others wait for it in another than it is in."""
    model = build("mixtral")
    parallel = hep.torch.parallelize(model, load("mixtral", "ep"), timeout_s=60, transport=transport)
    if rank == 1:
        model.model.layers[2].mlp.forward = lambda rows: rows
    tokens = batch(1)[0, rank]
    S = hep.Status
    failed = raises([S.BAD_CALL, S.COMM], "hep_dispatch of layer 3",
                    lambda: model(input_ids=tokens, labels=tokens).loss.backward())
    assert "hep_dispatch of layer 2" in failed.message and "rank 1" in failed.message + " rank %s" % failed.rank, failed
    raises([failed.status], failed.message, lambda: model(input_ids=tokens), 2)  # it stays so
    parallel.close()


def misuse_swaps(rank):
    """One rank calls two layers in the other order."""
    model = build("mixtral")
    parallel = hep.torch.parallelize(model, load("mixtral", "ep"), timeout_s=60)
    if rank == 2:
        layers = model.model.layers
        layers[1].mlp, layers[2].mlp = layers[2].mlp, layers[1].mlp
    tokens = batch(1)[0, rank]
    failed = raises([hep.Status.BAD_CALL, hep.Status.COMM], "hep_dispatch of layer ", lambda: model(input_ids=tokens))
    assert "layer 1" in failed.message and "layer 2" in failed.message, failed
    parallel.close()


def misuse_no_sync(rank):
    """One rank takes the last micro-batch for one of the first: the others wait for its gradients."""
    model = build("mixtral")
    parallel = hep.torch.parallelize(model, load("mixtral", "hybrid"), timeout_s=6)
    tokens = batch(1)[0, rank]

    def train():
        with parallel.no_sync() if rank == 1 else contextlib.nullcontext():
            model(input_ids=tokens, labels=tokens).loss.backward()
        parallel.weights_changed()
        model(input_ids=tokens, labels=tokens).loss.backward()

    raises([hep.Status.BAD_CALL, hep.Status.COMM, hep.Status.TIMEOUT], "", train, 30)
    parallel.close()


def misuse_threads(rank):
    """A second thread calls while the first one is inside: on one rank, and all find out."""
    session = hep.torch.Session(load("mixtral", "ep"), timeout_s=8)
    weights = {"up": torch.zeros(8, 72, 32), "down": torch.zeros(8, 32, 72)}
    made = [hep.torch.MoELayer(session, k, weights, plain_experts) for k in range(4)]
    index, gate = torch.tensor([[0, 7]]), torch.ones(1, 2)
    dist.barrier()
    found = []

    def call():
        try:
            made[0](torch.zeros(1, 32), index, gate)
        except hep.Error as failed:
            found.append(failed)

    if rank == 3:
        time.sleep(1)
    if rank == 0:  # inside of dispatch, for rank 3
        first = threading.Thread(target=call)
        first.start()
        time.sleep(0.4)
        raises([hep.Status.BAD_CALL], "thread", lambda: session.context.gathered(0))
        first.join()
    else:
        call()
    assert found and found[0].status in (hep.Status.BAD_CALL, hep.Status.COMM, hep.Status.TIMEOUT), found
    session.close()


def misuse_absent(rank, transport):
    """One rank does not come: the others end within the time-out."""
    dist.barrier()  # all are here now
    parallel = hep.torch.parallelize(build("mixtral"), load("mixtral", "ep"), timeout_s=6, transport=transport)
    store = dist.distributed_c10d._get_default_store()
    if rank == 3:
        store.wait(["raised %s %d" % (transport, of) for of in range(3)])
    else:
        failed = raises([hep.Status.TIMEOUT, hep.Status.COMM], "", lambda: parallel.model(input_ids=batch(1)[0, rank]), 15)
        # One that gives up earlier closes its connections: that is what others may see.
        words = "time-?out|timed out|did not come for|reset by peer|broken pipe|closed"
        assert re.search(words, failed.message, re.IGNORECASE), failed
        store.set("raised %s %d" % (transport, rank), "")
    parallel.close()


def misuse_away(rank):
    """One rank makes no session: the others do not wait for it longer than they were told."""
    store = dist.distributed_c10d._get_default_store()
    if rank == 3:
        store.wait(["stayed %d" % of for of in range(3)])
        return
    raises([hep.Status.TIMEOUT, hep.Status.COMM], "", lambda: hep.torch.Session(load("mixtral", "ep"), timeout_s=3), 30)
    store.set("stayed %d" % rank, "")


def misuse_weights(rank):
    """One rank has other weights."""
    model = build("qwen3_moe")
    if rank == 2:
        with torch.no_grad():
            model.lm_head.weight[0, 0] += 1
    raises([hep.Status.COMM], "rank 2 has other weights than rank 0",
           lambda: hep.torch.parallelize(model, load("qwen3_moe", "ep"), timeout_s=20))


def groups(rank):
    """The plan's groups as process groups: experts gathered by hand are those that the plan says a rank holds."""
    plan = load("mixtral", "hybrid")
    made = hep.torch.ProcessGroups(plan)
    held = torch.tensor(list(plan.owned(0, rank)))
    for group in made.crossed(0, hep.Use.GATHER):
        parts = [torch.empty_like(held) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, held, group=group)
        held = torch.cat(parts)
    assert held.tolist() == list(plan.held(0, rank)), held
    made.close()


# ---- processes -----------------------------------------------------------------------------------------------------


def run_rank(rank, ranks, work):
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(PORT))
    try:
        dist.init_process_group("gloo", init_method="file://%s/store.%d" % (FOLDER, ranks), rank=rank, world_size=ranks)
        work(rank)
    except BaseException:
        print("rank %d:\n%s" % (rank, traceback.format_exc()), flush=True)
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)  # process groups of a failed session cannot be left in good order


def run_all(ranks, work):
    """work(rank) in processes of their own, which begin as copies of this one."""
    children = []
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            run_rank(rank, ranks, work)
        children.append(child)
    while children:
        child, code = os.wait()
        children.remove(child)
        if code:  # what the others wait for does not come
            for other in children:
                os.kill(other, signal.SIGKILL)
            sys.exit("a process failed")


def steps(rank, references):
    for reference in references:
        kind = "%s.%d" % (str(reference.dtype).rpartition(".")[2], reference.micro_batches)
        begin = time.monotonic()
        worst = python_steps.check(hep.torch.parallelize, load("steps", kind), reference, rank)
        if rank == 0:
            print("eight processes, %-24s %.2f s; off by %.3f of what is allowed" % (kind, time.monotonic() - begin, worst),
                  flush=True)


def families(rank, references):
    plan = load("families", "hybrid")
    for reference in references:
        python_families.check(hep.torch.parallelize, plan, reference, rank)
    python_families.other_balance(hep.torch.parallelize, plan, rank)


def distributed_checkpoint(rank, plain):
    """torch.distributed.checkpoint: what one plan saves, another loads, and the unchanged model, bit for bit."""
    import torch.distributed.checkpoint as dcp

    path = os.path.join(FOLDER, "dcp")
    parallel = hep.torch.parallelize(build("mixtral"), load("mixtral", "unlike"), timeout_s=60)
    dcp.save(parallel.sharded_state_dict(), checkpoint_id=path)
    parallel.close()
    stored = dcp.FileSystemReader(path).read_metadata().state_dict_metadata["model.layers.0.mlp.experts.down_proj"]
    assert list(stored.size) == [8, 32, 48] and len(stored.chunks) == 4, stored  # no rank wrote another's
    model = build("mixtral")
    parallel = hep.torch.parallelize(model, load("mixtral", "ep"), timeout_s=60)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(rank)
    dcp.load(parallel.sharded_state_dict(), checkpoint_id=path)
    parallel.weights_changed()
    found = parallel.state_dict()
    assert set(found) == set(plain.initial)
    for name, value in plain.initial.items():
        assert torch.equal(found[name], value), name
    tokens = batch(1)[0, rank]
    with torch.no_grad():
        near("logits", model(input_ids=tokens).logits, plain.logits.view(RANKS, SEQUENCES, TOKENS, -1)[rank])
    pieces = hep.torch.parallelize(build("six"), load("six", "pieces"), timeout_s=60)
    raises([hep.Status.UNSUPPORTED], "are no whole experts", pieces.sharded_state_dict)
    pieces.close()
    unchanged = {name: torch.zeros_like(value) for name, value in plain.initial.items()}
    dcp.load(unchanged, checkpoint_id=path)
    assert all(torch.equal(unchanged[name], value) for name, value in plain.initial.items())
    parallel.close()


def profiles(kind, rank):
    """Counts of choices are those of the routers of one process; hepc takes the file (test_python_torch.sh)."""
    model, plain = build(kind), build(kind)
    parallel = hep.torch.parallelize(model, load(kind, "outside"), timeout_s=60)
    path = os.path.join(FOLDER, "profile.json")
    begin = time.monotonic()
    with hep.torch.profile(parallel, path):
        for tokens in batch(2)[:, rank]:
            model(input_ids=tokens, labels=tokens).loss.backward()
    elapsed = time.monotonic() - begin
    dist.barrier()
    expected = torch.zeros(4, 8)
    for k, layer in enumerate(plain.model.layers):
        def count(_module, _given, out, k=k):
            expected[k] += torch.bincount(out[-1].flatten(), minlength=8)

        layer.mlp.gate.register_forward_hook(count)
    with torch.no_grad():
        for tokens in batch(2):
            plain(input_ids=tokens.reshape(-1, TOKENS))
    with open(path) as file:
        found = json.load(file)
    assert torch.equal(torch.tensor([layer["histogram"] for layer in found["layers"]]), expected)
    assert expected.sum() == 4 * 2 * RANKS * SEQUENCES * TOKENS * 2
    total = found["loss_s"]
    for layer in found["layers"]:
        times = [layer[name] for name in ("pre_expert_s", "gate_s", "expert_s")]
        assert min(times) > 0 and layer["dense_s"] == 0, layer
        assert layer["expert_rows"] == SEQUENCES * TOKENS * 2 / 4  # of the 4 experts that a rank holds
        assert layer["expert_flops"] >= 2 * SEQUENCES * TOKENS * 2 * 3 * 32 * 40  # of even routing
        total += sum(times)
    assert total < elapsed, (total, elapsed)
    raises([hep.Status.BAD_CALL], "no forward pass", lambda: run_nothing(parallel, path))
    parallel.close()


def run_nothing(parallel, path):
    with hep.torch.profile(parallel, path):
        pass


def do_all(rank, references, of_families):
    plain, accumulated, balanced, qwen, qwen4, pieces = references
    work = [("mixtral, EP", lambda: scenario("ep", plain, with_ddp=True, transport="torch")),
            ("mixtral, hybrid, 4 micro-batches", lambda: scenario("hybrid", accumulated, with_ddp=True)),
            ("mixtral, unlike layers gathered again", lambda: scenario("unlike", plain, transport="torch")),
            ("mixtral, gather, balance", lambda: scenario("gather", balanced)),
            ("mixtral, recomputed", lambda: scenario("unlike", plain, checkpointing="exact")),
            ("mixtral, recomputed, reentrant", lambda: scenario("ep", plain, checkpointing="reentrant")),
            ("qwen3_moe, EP, 4 micro-batches", lambda: scenario("ep", qwen4)),
            ("qwen3_moe, hybrid outside, TCP", lambda: scenario("outside", qwen, transport="tcp")),
            ("qwen3_moe, gather, 4 micro-batches", lambda: scenario("gather", qwen4)),
            ("qwen3_moe, naive", lambda: scenario("naive", qwen)),
            ("mixtral, experts in pieces", lambda: scenario("pieces", pieces, transport="torch")),
            ("mixtral, layers share memory", lambda: scenario("slots", plain)),
            ("padded messages", lambda: scenario("padded", plain)), ("too many for padded messages", lambda: overfull("mixtral")),
            ("compressed experts", lambda: compressed(plain)),
            ("autocast", lambda: autocast("mixtral")), ("frozen", lambda: frozen("mixtral", accumulated)),
            ("layers", lambda: layers(rank)), ("uneven", lambda: uneven("mixtral")), ("groups", lambda: groups(rank)),
            ("checkpoint", lambda: distributed_checkpoint(rank, plain)), ("profile", lambda: profiles("qwen3_moe", rank)),
            ("families", lambda: families(rank, of_families)),
            ("other weights", lambda: misuse_weights(rank)), ("misuse", lambda: misuse_alike(rank)),
            ("a layer left out", lambda: misuse_skips(rank, "auto")), ("a layer left out, over gloo", lambda: misuse_skips(rank, "torch")), ("layers swapped", lambda: misuse_swaps(rank)),
            ("gradients kept back", lambda: misuse_no_sync(rank)), ("a second thread", lambda: misuse_threads(rank)),
            ("a rank that does not come", lambda: misuse_absent(rank, "auto")),
            ("a rank that does not come, over gloo", lambda: misuse_absent(rank, "torch")),
            # The last: ranks have made as many sessions no more.
            ("a rank that stays away", lambda: misuse_away(rank))]
    for name, function in work:
        if CASES and name not in CASES:
            continue
        begin = time.monotonic()
        function()
        if rank == 0:
            print("%-40s %.2f s" % (name, time.monotonic() - begin), flush=True)


def main():
    torch.set_num_threads(1)
    references = [Reference("mixtral", 1), Reference("mixtral", 4), Reference("mixtral", 1, balance=True),
                  Reference("qwen3_moe", 1), Reference("qwen3_moe", 4), Reference("six", 1)]
    of_families = python_families.prepare(IS_LONG)
    of_steps = [python_steps.Reference(micro_batches, 20 if IS_LONG else 3) for micro_batches in ((1, 4) if IS_LONG else (4,))]
    of_steps.append(python_steps.Reference(1, 1, torch.bfloat16))
    gc.freeze()  # what was imported is not looked through again, in every process
    run_all(RANKS, lambda rank: do_all(rank, references, of_families))
    run_all(python_steps.RANKS, lambda rank: steps(rank, of_steps))
    script(*sys.argv[2:])
    print("all good")


# ---- a script, by itself and by torchrun ---------------------------------------------------------------------------


def run_script(output, path, *arguments):
    """As `python PATH ARGUMENTS` does. One process writes at a time."""
    file = os.open(os.path.join(FOLDER, output), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, sys.stdout.fileno())
    sys.argv = [path, *arguments]
    runpy.run_path(path, run_name="__main__")
    sys.stdout.flush()


def script(path, *arguments):
    child = os.fork()
    if child == 0:
        try:
            run_script("alone", path, *arguments)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, "%s failed" % path
    # What `torchrun --standalone --nproc-per-node 4` sets, but for how processes start.
    config = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=RANKS, run_id="hep", rdzv_backend="c10d",
                          rdzv_endpoint="localhost:0", max_restarts=0, start_method="fork")
    elastic_launch(config, run_script)("shared", path, *arguments, "--plan", os.path.join(FOLDER, "plan.hepb"))


main()
