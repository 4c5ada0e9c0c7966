"""The plans that scripts/test-gpu tries: strategies, dtypes, passes and codecs on four ranks, and one layer for speed.

    python3 scripts/gpu/plans.py HEPC FOLDER [NAME...]
"""
import collections
import os
import subprocess
import sys

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DOMAINS = {"ep": "dc=1,gpu=1", "dc": "dc=2,gpu=1", "gpu": "dc=1,gpu=2", "all": "dc=2,gpu=2"}
CODECS = {
    "dense": "",
    "sr": "  migration { codec = sr  ratio = 10 }",
    "delta": "  migration { codec = delta  ratio = 10 }",
    "topk": "  migration { gradient = topk  gradient_ratio = 10 }",
}
LAYER, PAIR = "layer", "pair"
LAPTOP = {"laptop": "forward", "laptop_training": "training"}  # samples/laptop.hep

# name; strategy of DOMAINS; options: more of hepc's
Plan = collections.namedtuple("Plan", "name strategy dtype training codec activation options")


def matrix():
    plans = []
    for dtype in ("f32", "f16", "bf16"):
        for strategy in DOMAINS:
            for training in (False, True):
                name = f"{'train' if training else 'forward'}_{strategy}_{dtype}"
                activation = {"ep": "relu", "gpu": "gelu"}.get(strategy, "swiglu")
                plans.append(Plan(name, strategy, dtype, training, "dense", activation, []))
        for codec in ("sr", "delta", "topk"):
            for strategy in ("dc", "all"):
                plans.append(Plan(f"train_{strategy}_{dtype}_{codec}", strategy, dtype, True, codec, "swiglu", []))
        plans.append(Plan(f"forward_dc_{dtype}_sr", "dc", dtype, False, "sr", "swiglu", []))
        plans.append(Plan(f"train_gpu_{dtype}_naive", "gpu", dtype, True, "dense", "swiglu", ["--dispatch", "naive"]))
        plans.append(Plan(f"train_ep_{dtype}_padded", "ep", dtype, True, "dense", "swiglu",
                          ["-D", "capacity=1.25", "-D", "exchange=padded"]))
    return plans


def describe(plan):
    return f"""let capacity = off
let exchange = counted
cluster gpus {{
  level dc  {{ count = 2  bandwidth = 1 Gbit/s   latency = 1 ms }}
  level gpu {{ count = 2  bandwidth = 100 Gbit/s latency = 10 us }}
  device    {{ compute = 100 TFLOP/s  memory = 80 GB  memory_bandwidth = 2 TB/s }}
}}
model small {{
  layers = 2  hidden = 64  heads = 4  vocabulary = 128
  sequence = 32  batch = 2
  dtype = {plan.dtype}
  moe {{ experts = 8  top_k = 2  inner = 96  activation = {plan.activation} }}
}}
plan {{
  pass = {"training" if plan.training else "forward"}{CODECS[plan.codec]}
  capacity = capacity  exchange = exchange
}}
"""


# One layer of the size of Mixtral 8x7B's, on one GPU for speed, on two for calibration.
LARGE = """cluster one {
  level gpu { count = %d  bandwidth = 100 Gbit/s  latency = 10 us }
  device { compute = 800 TFLOP/s  memory = 140 GB  memory_bandwidth = 4 TB/s }
}
model mixtral_layer {
  layers = 1  hidden = 4096  heads = 32  kv_heads = 8  vocabulary = 256
  sequence = 4096  batch = 1
  dtype = bf16
  moe { experts = 8  top_k = 2  inner = 14336  activation = swiglu }
}
plan { pass = forward }
"""


def compile_plan(hepc, folder, name, description, options):
    source = os.path.join(folder, name + ".hep")
    with open(source, "w", encoding="utf-8") as file:
        file.write(description)
    command = [hepc, *options, source, "-o", os.path.join(folder, name + ".hepb")]
    return subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0


def make(hepc, folder, names=None):
    """Compiles all plans, or those named, into the folder. False where one does not compile."""
    os.makedirs(folder, exist_ok=True)
    ok = True
    for plan in matrix():
        if not names or plan.name in names:
            options = ["--domain", DOMAINS[plan.strategy], *plan.options]
            ok = compile_plan(hepc, folder, plan.name, describe(plan), options) and ok
    with open(os.path.join(SOURCE, "samples", "laptop.hep"), encoding="utf-8") as file:
        laptop = file.read()
    for name, what in LAPTOP.items():
        if not names or name in names:
            text = laptop.replace("pass = forward", f"pass = {what}")
            ok = compile_plan(hepc, folder, name, text, []) and ok
    for name, ranks in ((LAYER, 1), (PAIR, 2)):
        if not names or name in names:
            ok = compile_plan(hepc, folder, name, LARGE % ranks, []) and ok
    return ok


if __name__ == "__main__":
    sys.exit(not make(sys.argv[1], sys.argv[2], sys.argv[3:]))
