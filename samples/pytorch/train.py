"""Trains a small Mixtral of Hugging Face on the bytes of a file: alone, or on as many processes as a plan is for.

    python train.py --data README.md                             one process, the model unchanged
    torchrun --nproc-per-node 4 train.py --data README.md --plan plan.hepb

Both train on the same batches, those of --ranks processes, and print the same losses.
"""
import argparse
import contextlib
import os
import time

import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForCausalLM


def read_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="FILE", help="what to learn")
    parser.add_argument("--plan", metavar="FILE", help="run it under this plan of hepc's")
    parser.add_argument("--model", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "model"),
                        metavar="FOLDER", help="with its config.json (model)")
    parser.add_argument("--steps", type=int, default=20, metavar="N")
    parser.add_argument("--ranks", type=int, default=4, metavar="N", help="whose batches one process takes (4)")
    parser.add_argument("--micro-batches", type=int, default=2, metavar="N", help="of a step (2)")
    parser.add_argument("--batch", type=int, default=4, metavar="N", help="sequences of a rank and micro-batch (4)")
    parser.add_argument("--sequence", type=int, default=128, metavar="N", help="bytes of a sequence (128)")
    parser.add_argument("--transport", default="auto", choices=("auto", "torch", "tcp"),
                        help="rows and experts travel over torch.distributed, or libhep's own connections (auto: these)")
    parser.add_argument("--save", metavar="FILE", help="write the state of the whole model there at the end")
    return parser.parse_args()


def batch_of(data, options, step):
    """All ranks': [micro-batch][rank][sequence][byte], the same wherever it is asked for."""
    shape = (options.micro_batches, options.ranks, options.batch)
    generator = torch.Generator().manual_seed(step)
    begin = torch.randint(0, len(data) - options.sequence, shape, generator=generator)
    return data[begin.unsqueeze(-1) + torch.arange(options.sequence)]


def backward(model, batches, no_sync=contextlib.nullcontext):
    """Sums gradients of all micro-batches; no_sync holds for all but the last. The mean loss."""
    total = 0.0
    for index, tokens in enumerate(batches):
        with no_sync() if index + 1 < len(batches) else contextlib.nullcontext():
            loss = model(input_ids=tokens, labels=tokens).loss / len(batches)
            loss.backward()
        total += loss.item()
    return total


def main():
    options = read_options()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    data = torch.frombuffer(bytearray(open(options.data, "rb").read()), dtype=torch.uint8).long()
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(options.model), dtype=torch.float32).train()
    parallel, trained, rank, no_sync = None, model, 0, contextlib.nullcontext
    if options.plan:
        import hep
        import hep.torch

        dist.init_process_group("gloo")
        rank = dist.get_rank()
        parallel = hep.torch.parallelize(model, hep.Plan.load(options.plan),  # experts are shared out from here on
                                         transport=options.transport)
        trained = parallel.ddp()  # dense weights as ever
        no_sync = lambda: parallel.no_sync(trained)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(options.steps):
        begin = time.monotonic()
        batches = batch_of(data, options, step)
        mine = batches[:, rank] if parallel else batches.flatten(1, 2)
        loss = torch.tensor(backward(trained, mine, no_sync))
        if parallel:
            parallel.clip_grad_norm_(1.0)
            dist.all_reduce(loss)
            loss /= dist.get_world_size()
        else:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if rank == 0:
            print("step %2d  loss %.5f  %.0f ms" % (step, loss, 1e3 * (time.monotonic() - begin)), flush=True)
    if parallel:
        report(parallel, rank, options.steps)
    state = parallel.state_dict() if parallel else model.state_dict()
    if options.save and rank == 0:
        torch.save(state, options.save)
    if parallel:
        parallel.close()
        dist.destroy_process_group()


def report(parallel, rank, steps):
    """What crossed which level, of this rank and step, beside what the plan says."""
    counted, _ = parallel.count()
    for level, sent, planned in zip(parallel.plan.levels, counted, map(parallel.plan.traffic, range(len(counted)))):
        if rank == 0:
            print("%-5s sent per step: rows %.2f MB (plan %.2f), experts %.2f MB (plan %.2f)"
                  % (level.name, sent.exchange / steps / 1e6, planned.exchange / 1e6,
                     (sent.gather + sent.reduce) / steps / 1e6, (planned.gather + planned.reduce) / 1e6))


main()
