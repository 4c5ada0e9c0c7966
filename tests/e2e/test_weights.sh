# Weights after 10 updates, not losses alone: those of hybrids, of gathers, of experts owned in parts are those of plain
# EP; kept and gathered again, naive and deduplicated, f32 and bf16. Checkpoints are read by the rules of docs/ir.md.
# builds: fast  seconds: 12
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
export PYTHONPATH=$HEP_SOURCE/tests/e2e PYTHONDONTWRITEBYTECODE=1
cat >weights_test.py <<'PYTHON'
import os, shutil, subprocess, sys
import weights

failures = 0
# Routing is the same whatever rounding does, so weights differ by rounding alone. AdamW moves every weight by about the
# learning rate in the direction of its gradient, so what remains are the weights whose gradients are near the rounding
# of sums: few in f32 (2^-24), some in bf16 (2^-9). Both bounds are shares of how far weights have moved; a gradient
# that a rank missed or took twice turns a large share of them, which the last case shows.
BOUND = {"f32": 1e-4, "bf16": 0.2}


def run(*arguments):
    out = subprocess.run(arguments, capture_output=True, text=True)
    assert out.returncode == 0, (arguments, out.stderr)


def trained(name, text, options, rate="0.01", iterations=10, seed=3):
    with open(name + ".hep", "w") as file:
        file.write(text)
    run(os.environ["HEPC"], *options, name + ".hep", "-o", name + ".hepb")
    shutil.rmtree(name, ignore_errors=True)
    run(os.environ["HEP_RUN"], "--quiet", "-n", str(iterations), "--warmup", "0", "--routing", "balanced", "--seed", str(seed),
        "--learning-rate", rate, "--checkpoint", name, "--every", str(iterations), name + ".hepb")
    return weights.read("%s/step-%06d" % (name, iterations))


def model(levels, experts, dtype, dispatch="dedup", once="auto"):
    names = ["dc", "gpu"] if len(levels) == 2 else ["gpu"]
    lines = "\n".join("  level %s { count = %d  bandwidth = 1 Gbit/s  latency = 100 us }" % pair for pair in zip(names, levels))
    return f"""cluster c {{
{lines}
  device {{ compute = 4 GFLOP/s  memory = 512 MB  memory_bandwidth = 1 GB/s }}
}}
model small {{
  layers = 3  hidden = 16  heads = 2  vocabulary = 64  sequence = 8  batch = 2  dtype = {dtype}
  moe {{ experts = {experts}  top_k = 2  inner = 12  every = 2 }}
}}
plan {{ pass = training  dispatch = {dispatch}  once_dense = {once} }}
training {{ clip = 1  balance = 0 }}
"""


def check(what, own, others, moved, bound, below=True):
    global failures
    for name, difference in weights.distance(own, others).items():
        share = difference / moved[name]
        if (share <= bound) != below:
            print("FAIL: %s: %s differ by %.4f of how far they moved, bound %g" % (what, name, share, bound))
            failures += 1
    return max(difference / moved[name] for name, difference in weights.distance(own, others).items())


CASES = [  # levels, experts, domains
    ([2, 4], 16, ["dc=2,gpu=1", "dc=1,gpu=4", "dc=2,gpu=2", "gather"]),
    ([2, 4], 60, ["dc=2,gpu=2", "gather"]),
    ([4], 3, ["gpu=4"]),
    ([2, 3], 5, ["gather"]),
]
worst = {"f32": 0, "bf16": 0}
for levels, experts, domains in CASES:
    last = 2
    for dtype in "f32", "bf16":
        plain = trained("plain", model(levels, experts, dtype, "naive", "all"), ["--domain", "ep"])
        begin = trained("begin", model(levels, experts, dtype, "naive", "all"), ["--domain", "ep"], rate="0", iterations=1)
        moved = weights.distance(plain, begin)
        variants = [("ep", "dedup", "none", "")]
        if len(levels) > 1 and "dc=2,gpu=2" in domains:  # between the two: what came over the outer level is kept
            variants += [("dc=2,gpu=2", "dedup", "none", ",once=dc")]
        for i, domain in enumerate(domains):
            variants += [(domain, "naive" if i % 2 else "dedup", "all", ""), (domain, "dedup" if i % 2 else "naive", "none", ",regather")]
        for domain, dispatch, once, again in variants:
            option = "0-%d: %s%s" % (last, domain, again) if "=" in domain else domain
            got = trained("got", model(levels, experts, dtype, dispatch, once), ["--domain", option])
            what = "%s, %d experts, %s, %s, %s, dense kept: %s" % (levels, experts, dtype, option, dispatch, once)
            worst[dtype] = max(worst[dtype], check(what, plain, got, moved, BOUND[dtype]))
    other = trained("other", model(levels, experts, "bf16", "naive", "all"), ["--domain", "ep"], seed=4)
    check("other tokens", plain, other, moved, 2 * BOUND["bf16"], below=False)
print("worst share: f32 %.5f, bf16 %.4f" % (worst["f32"], worst["bf16"]))
sys.exit(failures > 0)
PYTHON
python3 weights_test.py || fail "weights"
finish
