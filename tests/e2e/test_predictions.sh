# The cost model against the simulation, over random training plans of all codecs: half of the predictions are within 2 %,
# nine of ten within 10 %, and they do not lean to one side. Over plans of up to eight micro-batches, with activations
# kept or computed again, half are within 3 %.
# builds: dev  seconds: 12
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
python3 - "$HEPC" <<'PYTHON' || fail 'predictions are off'
import json, random, subprocess, sys
random.seed(5)
migrations = ["codec = dense", "codec = sr", "codec = delta", "codec = delta  gradient = topk", "gradient = topk"]

def loops():
    return "micro_batches = %d  recompute = %s  once_dense = %s" % (
        random.choice([1, 2, 3, 4, 8]), random.choice(["none", "full", "auto"]), random.choice(["all", "none", "auto"]))

def measure(count, batches, dtypes, more, median):
    errors = [error for _ in range(count) for error in errors_of(batches, dtypes, more())]
    sizes, mean = sorted(map(abs, errors)), sum(errors) / len(errors)
    print("%d plans: median %.3f, nine of ten %.3f, worst %.3f, mean %.3f" % (
        len(sizes), sizes[len(sizes) // 2], sizes[len(sizes) * 9 // 10], sizes[-1], mean))
    assert sizes[len(sizes) // 2] < median and sizes[len(sizes) * 9 // 10] < 0.1 and abs(mean) < 0.02, sizes

def errors_of(batches, dtypes, more):
    sites, gpus = random.choice([2, 4]), random.choice([2, 4, 8])
    outer = 10 ** random.uniform(-1, 2)
    inner, compute = outer * random.choice([2, 5, 10, 40]), 10 ** random.uniform(0, 3.5)
    hidden, experts = random.choice([128, 256, 512]), sites * gpus * random.choice([1, 2])
    with open("random.hep", "w") as file:
        file.write(f"""cluster c {{
  level dc  {{ count = {sites}  bandwidth = {outer:.4g} Gbit/s  latency = 200 us }}
  level gpu {{ count = {gpus}  bandwidth = {inner:.4g} Gbit/s  latency = 10 us }}
  device {{ compute = {compute:.4g} GFLOP/s  memory = 200 GB  memory_bandwidth = 100 GB/s }}
}}
model m {{
  layers = {random.choice([2, 4, 8])}  hidden = {hidden}  heads = 4  vocabulary = 512  sequence = 64
  batch = {random.choice(batches)}  dtype = {random.choice(dtypes)}
  moe {{ experts = {experts}  top_k = 2  inner = {2 * hidden}  every = {random.choice([1, 1, 2])} }}
}}
plan {{ pass = training  {more}  migration {{ {random.choice(migrations)} }} }}
""")
    for options in [], ["--domain", "ep"]:
        out = subprocess.run([sys.argv[1], "--dump=json", *options, "random.hep"], capture_output=True, text=True)
        assert out.returncode == 0, out.stderr
        solution = json.loads(out.stdout)["solution"]
        yield solution["simulated_s"] / solution["iteration_s"] - 1

measure(40, [4, 16], ["f32"], str, 0.02)
measure(60, [1, 4, 16], ["f32", "bf16"], loops, 0.03)
PYTHON
finish
