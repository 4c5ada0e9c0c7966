"""Descriptions drawn at random from what the language can say together: clusters whose ports and links differ, models,
and what plan blocks allow besides. hepc makes a plan of each or refuses it with a reason; it never fails by a mistake of
its own. What it made is checked against the dense reference by hep-run.

    combinations.py HEPC HEP_RUN FOLDER [--first SEED] [--count N] [--check-every N] [--seconds S]

Prints what was wrong, a line each, with the seed, and leaves that description in FOLDER.
"""
import argparse
import collections
import csv
import pathlib
import random
import re
import subprocess
import sys

# Of ir/base/exit_codes.def: a plan, an input that is refused, nothing that fits.
ANSWERS = {0: "planned", 3: "refused", 4: "did not fit"}


class Description:
    """One draw. Keys go together as a user may write them; what is contradictory is for hepc to refuse."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.training = self.chance(0.75)
        self.micro_batches = self.one_of(2, 3, 4, 6) if self.training and self.chance(0.7) else 1
        self.encodes = self.chance(0.35)
        self.meets = self.training and not self.encodes and self.chance(0.12) # workers train apart
        self.exact = self.training and not self.encodes and not self.meets

    def chance(self, share):
        return self.random.random() < share

    def one_of(self, *values):
        return self.random.choice(values)

    def maybe(self, share, text):
        return text if self.chance(share) else ""

    def cluster(self):
        names = self.one_of(["gpu"], ["dc", "gpu"], ["dc", "gpu"], ["dc", "node", "gpu"])
        counts = [self.one_of(1, 2, 2, 3, 4) if len(names) < 3 else self.one_of(1, 2, 2, 3) for _ in names]
        self.levels, self.counts = names, counts
        lines = ["cluster drawn {"]
        for depth, (name, count) in enumerate(zip(names, counts)):
            rate = self.one_of(0.05, 0.2, 1, 5) * 10**depth
            lines.append("  level %s { count = %d  bandwidth = %g Gbit/s  latency = %d us  %s}" % (
                name, count, rate, self.one_of(0, 20, 500, 5000), self.maybe(0.2, "overhead = 5 us  ")))
        outer = counts[0]
        if outer > 1 and self.chance(0.35):
            for worker in self.random.sample(range(outer), self.random.randint(1, outer)):
                lines.append("  port %s[%d] { bandwidth = %g Gbit/s  %s}" % (
                    names[0], worker, self.one_of(0.02, 0.3, 0.7, 4), self.maybe(0.3, "latency = 2 ms  ")))
        if outer > 2 and self.chance(0.2):
            a, b = self.random.sample(range(outer), 2)
            lines.append("  link %s[%d], %s[%d] { bandwidth = %g Gbit/s }" % (names[0], a, names[0], b, self.one_of(0.01, 0.1)))
        lines.append("  device { compute = %s  memory = %s  memory_bandwidth = %s  %s}" % (
            self.one_of("20 GFLOP/s", "2 TFLOP/s"), self.one_of("0.4 MB", "1.5 MB", "6 MB", "8 GB", "8 GB"),
            self.one_of("3 GB/s", "800 GB/s"), self.maybe(0.1, "engine = cuda  ")))
        return "\n".join(lines + ["}"])

    def model(self):
        heads = self.one_of(1, 2, 4)
        experts = self.one_of(2, 4, 6, 8, 12, 16, 24)
        layers = self.random.randint(2, 6)
        dtype = "f32" if self.meets else self.one_of("f32", "f32", "bf16", "f16")
        self.exact = self.exact and dtype == "f32"
        groups = self.one_of(1, 1, 1, 2)
        moe = ["experts = %d  top_k = %d  inner = %d  activation = %s" % (
            experts, min(experts // groups, self.one_of(1, 2, 2, 4)), self.one_of(8, 32, 48), self.one_of("relu", "gelu", "swiglu"))]
        if groups > 1:
            moe.append("groups = %d  group_top_k = %d" % (groups, self.one_of(1, groups)))
        moe.append(self.maybe(0.2, "shared_experts = 1"))
        moe.append(self.maybe(0.05, "zero_experts = 2") if groups == 1 else "")
        moe.append(self.maybe(0.2, "every = 2"))
        if not self.training:
            moe.append(self.maybe(0.1, "weights = fp8"))
        return """model drawn {
  layers = %d  hidden = %d  heads = %d  %s vocabulary = %d  sequence = %d  batch = %d  dtype = %s  %s
  moe { %s }%s
}""" % (layers, heads * self.one_of(8, 16), heads, self.maybe(0.3, "kv_heads = 1 "), self.one_of(16, 50, 64),
        self.one_of(4, 8, 16), self.one_of(1, 2, 4), dtype,
        self.maybe(0.2, "first_dense = 1  ") + self.maybe(0.05, "mixer slid { layers = [0]  window = 3 }  "), "  ".join(filter(None, moe)),
        self.maybe(0.2, "\n  routing { skew = zipf(%g) }" % self.one_of(0.5, 1.1)))

    def coding(self, block, codecs):
        codec, gradient = self.one_of(*codecs), self.one_of("dense", "topk", "q4", "ternary") if self.training else "dense"
        keys = ["codec = %s" % codec]
        if codec in ("sr", "delta"):
            keys.append(self.maybe(0.7, "ratio = %g" % self.one_of(1, 2, 10, 50)))
        if gradient != "dense":
            keys.append("gradient = %s" % gradient)
        if gradient == "topk":
            keys.append(self.maybe(0.7, "gradient_ratio = %g" % self.one_of(2, 10)))
        if codec == "sr":
            keys.append(self.maybe(0.5, "shared_every = %d" % self.one_of(0, 1, 3)))
        keys.append(self.maybe(0.3, "levels = %s" % self.one_of(*self.levels)))
        return "  %s { %s }\n" % (block, "  ".join(filter(None, keys)))

    def domain(self):
        named = self.random.sample(self.levels, self.random.randint(1, len(self.levels)))
        sizes = {name: self.one_of(*(d for d in range(1, count + 1) if count % d == 0)) for name, count in zip(self.levels, self.counts)}
        return self.one_of("ep", "gather", "{ %s }" % " ".join("%s = %d" % (name, sizes[name]) for name in self.levels if name in named))

    def plan(self):
        encoded = self.coding("migration", ("dense", "sr", "delta", "sign", "q4", "auto")) if self.encodes else ""
        dense = self.coding("dense", ("dense", "delta", "sign", "q4")) if self.encodes and self.training and self.chance(0.5) else ""
        keys = ["pass = %s" % ("training" if self.training else "forward")]
        if self.micro_batches > 1:
            laps = [q for q in range(1, self.micro_batches + 1) if self.micro_batches % q == 0]
            keys.append("micro_batches = %d" % self.micro_batches)
            keys.append(self.maybe(0.3, "lap = %d" % (self.micro_batches if self.encodes else self.one_of(*laps))))
            keys.append(self.maybe(0.2, "once_embedding = %s" % ("all" if dense else self.one_of("all", "none"))))
            keys.append(self.maybe(0.3, "interleave = %s" % self.one_of("none", "full")))
            keys.append(self.maybe(0.15, "once_gradient = %s" % self.one_of("weights", "none", *self.levels)))
        if self.training:
            keys.append(self.maybe(0.3, "once_dense = %s" % ("all" if dense else self.one_of("all", "none"))))
            keys.append(self.maybe(0.4, "recompute = %s" % self.one_of("none", "full")))
            keys.append(self.maybe(0.3, "bucket = %s" % self.one_of("none", "1", "2", "3", "8")))
            keys.append(self.maybe(0.3, "whole_iterations = %d" % self.one_of(1, 2)) if self.encodes else "")
        elif self.chance(0.15):
            keys.append("replicas = %s" % self.one_of(*self.levels))
        keys.append(self.maybe(0.3, "dispatch = naive"))
        keys.append(self.maybe(0.3, "domain = %s" % self.domain()))
        keys.append(self.maybe(0.2, "placement = input"))
        if self.chance(0.25):
            self.exact = False
            keys.append("capacity = %g" % self.one_of(1, 1.25, 2))
            keys.append(self.maybe(0.5, "exchange = padded"))
        if self.chance(0.2):
            self.exact = False
            keys.append("tokens = %s" % self.one_of("fp8", "int8", "int4"))
        meeting = "  sync { level = %s  every = %d  optimizer = %s }\n" % (
            self.one_of(*self.levels[:-1] or self.levels), self.one_of(1, 2, 3), self.one_of("average", "nesterov"))
        return "plan {\n  %s\n%s%s}" % ("  ".join(filter(None, keys)), "".join(filter(None, (encoded, dense))),
                                       meeting if self.meets else "")

    def plain(self):
        """What computes the same in the plainest way; after text()."""
        return "plan { micro_batches = %d  domain = ep  placement = input  once_dense = all  recompute = none  bucket = none%s }" % (
            self.micro_batches, "  interleave = none" if self.micro_batches > 1 else "")

    def text(self):
        self.parts = parts = [self.cluster(), self.model(), self.plan()]
        if self.training and self.chance(0.2):
            parts.append("training { clip = 1  warmup = 2 }")
        return "\n".join(parts) + "\n"


def run(command, seconds):
    try:
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return None, "", "no end within %d s" % seconds
    return done.returncode, done.stdout, done.stderr


def losses(arguments, plan, iterations):
    """Of every iteration; what was wrong with the run in words, if anything."""
    file = arguments.folder / "losses.csv"
    command = [arguments.hep_run, "--quiet", "--overwrite", "--timeout", "20", "--losses", file, "-n", iterations, plan]
    code, output, errors = run(command, arguments.seconds)
    if code:
        return [], "hep-run -n %d ended with %s: %s" % (iterations, code, (errors.strip() or output.strip())[-400:])
    with open(file) as lines:
        return [float(row["loss"]) for row in csv.DictReader(lines)], ""


def check_run(arguments, description, plan):
    """Its first forward pass against the dense reference; where nothing is lost on the way, its training against that
    of the plainest plan."""
    command = [arguments.hep_run, "--quiet", "--timeout", "20", "--check", "--warmup", "0", "-n", "1", plan]
    code, output, errors = run(command, arguments.seconds)
    if code == 3 and "simulated" in errors: # some models are described, and not executed
        return ""
    if code:
        return "hep-run --check ended with %s: %s" % (code, (errors.strip() or output.strip())[-400:])
    if not description.training:
        return ""
    found, wrong = losses(arguments, plan, 4)
    if wrong or not description.exact:
        return wrong
    source, plain = arguments.folder / "plain.hep", arguments.folder / "plain.hepb"
    source.write_text("\n".join([re.sub("memory = .*?B", "memory = 8 GB", description.parts[0]), description.parts[1],
                                 description.plain(), *description.parts[3:]]))
    code, _, errors = run([arguments.hepc, source, "-o", plain], arguments.seconds)
    if code:
        return "the plain plan ended with %s: %s" % (code, errors.strip()[-300:])
    expected, wrong = losses(arguments, plain, 4)
    if not wrong and any(abs(a - b) > 2e-4 * abs(b) for a, b in zip(found, expected, strict=True)):
        wrong = "losses %s, of a plain plan %s" % (found, expected)
    return wrong


def try_one(arguments, seed):
    """The answer in a word, and what was wrong with it, if anything."""
    description = Description(seed)
    source, plan = (arguments.folder / ("%d%s" % (seed, suffix)) for suffix in (".hep", ".hepb"))
    source.write_text(description.text())
    code, _, errors = run([arguments.hepc, source, "-o", plan], arguments.seconds)
    if code and arguments.verbose:
        print("seed %d: %s" % (seed, errors.strip().splitlines()[0]))
    if code not in ANSWERS or (code and not errors.strip()):
        return "failed", "hepc ended with %s: %s" % (code, errors.strip()[-300:])
    wrong = check_run(arguments, description, plan) if code == 0 and seed % arguments.check_every == 0 else ""
    for path in (plan, *([] if wrong else [source])):
        path.unlink(missing_ok=True)
    return ANSWERS[code], wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hepc", type=pathlib.Path)
    parser.add_argument("hep_run", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--check-every", type=int, default=1)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--verbose", action="store_true", help="why descriptions are refused")
    arguments = parser.parse_args()
    answers, failed = collections.Counter(), 0
    for seed in range(arguments.first, arguments.first + arguments.count):
        answer, wrong = try_one(arguments, seed)
        answers[answer] += 1
        if wrong:
            failed += 1
            print("seed %d: %s" % (seed, wrong), flush=True)
    print("# %s" % ", ".join("%d %s" % (number, answer) for answer, number in sorted(answers.items())))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
