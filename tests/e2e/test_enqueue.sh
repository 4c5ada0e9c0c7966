# What every step of the CUDA engine enqueues, counted by the emulation, against the table in docs/architecture.md; the
# benchmark that holds the host's time against an empty kernel; FLOPs of its products, against docs/cuda.md.
# builds: fast  seconds: 4
. "$(dirname "$0")/lib.sh"
[ -n "${HEP_RUN_EMULATED:-}" ] || { echo "SKIP: no emulation of CUDA in this build"; exit 77; }
bench=$(dirname "$HEP_RUN_EMULATED")/bench_cuda_enqueue_emulated
cd "$work" || exit 1
export HEP_EXPERT_KERNEL=wgmma # comparing it to wmma first would count as the first step's

# plan NAME GPUS DTYPE KV_HEADS MOE PLAN: GPUs a data centre, and data centres; keys of those blocks besides, layers.
plan() {
  cat >"$1.hep" <<HEP
cluster c {
  level dc  { count = $2  bandwidth = 100 Mbit/s  latency = 1 ms }
  level gpu { count = $2  bandwidth = 1 Gbit/s    latency = 10 us }
  device    { compute = 10 GFLOP/s  memory = 1 GB  memory_bandwidth = 5 GB/s }
}
model m {
  layers = ${7:-1}  hidden = 16  heads = 4  kv_heads = $4  vocabulary = 16  sequence = 8  batch = 1  dtype = $3
  moe { experts = 4  top_k = 2  inner = 8  activation = swiglu  $5 }
}
plan { pass = training  domain = { dc = $2 }  $6 }
training { clip = 1 }
HEP
  "$HEPC" "$1.hep" -o "$1.hepb" >/dev/null || fail "$1.hep does not compile"
}
plan one 1 f32 4 "every = 2" "" 2
plan many 2 bf16 2 "shared_experts = 1" "capacity = 1.25"
plan sr 2 f16 4 "" "migration { codec = sr  ratio = 10 }"
plan loop 2 bf16 4 "" "micro_batches = 2  recompute = full"
plan delta 2 bf16 4 "" "migration { codec = delta  ratio = 10  gradient = topk  gradient_ratio = 10 }"

for name in one many sr loop delta; do
  "$bench" --iterations "$([ $name = one ] && echo 3 || echo 2)" --json "$name.json" "$name.hepb" >"$name.out" ||
    fail "$name.hepb: $(cat "$name.out")"
done
python3 - "$HEP_SOURCE/docs/architecture.md" one.json many.json sr.json loop.json delta.json <<'PY' || failures=$((failures + 1))
import json, re, sys
table = {op: int(most) for op, most in re.findall(r"^\| `(\w+)` \| (\d+) \|", open(sys.argv[1]).read(), re.M)}
seen = {}
for path in sys.argv[2:]:
    with open(path) as file:
        figures = json.load(file)
    assert figures["emulated"] and figures["empty_launch_us"] > 0
    for op in figures["ops"]:
        if op["meets"]: # as many copies as there are members
            continue
        seen[op["op"]] = max(seen.get(op["op"], 0), op["enqueues"])
wrong = {op: (seen.get(op), table.get(op)) for op in seen.keys() | table.keys() if seen.get(op) != table.get(op, 1)}
for op, (counted, told) in sorted(wrong.items()):
    print(f"FAIL: {op}: enqueues {counted} at most, docs/architecture.md says {told}")
with open(sys.argv[2]) as file:
    one = json.load(file)
if not one["replay"] or one["replay"]["host_us"] <= 0:
    print("FAIL: a plan of one GPU was not replayed:", one.get("replay_refusal"))
    wrong = True
sys.exit(bool(wrong))
PY
# hidden 16 in 4 heads, dense layers of 4 x 16, 8 tokens of one sequence: what the formulas of docs/cuda.md say for each op's products.
"$HEP_SOURCE/scripts/gpu/roofline.py" --check "$HEP_SOURCE/docs/cuda.md" || fail "docs/cuda.md has other figures"
"$HEP_SOURCE/scripts/gpu/roofline.py" --flops T=8,S=8,H=16,A=16,K=16,F=64,E=4,k=2,I=8,V=16,s=4 >flops.json ||
  fail "no FLOPs"
python3 - one.json flops.json <<'PY' || failures=$((failures + 1))
import json, sys
ops, flops = (json.load(open(path)) for path in sys.argv[1:])
counted = {op["op"]: op["product_flops"] for op in ops["ops"]}
compared = {op for op in counted if counted[op] or flops.get(op)}
wrong = {op: (counted[op], flops.get(op)) for op in compared if counted[op] != flops.get(op)}
print(*(f"FAIL: {op}: products of {a} FLOPs, docs/cuda.md says {b}" for op, (a, b) in sorted(wrong.items())), sep="\n", end="")
sys.exit(bool(wrong) or len(compared) < 7)
PY
"$bench" --help | grep -q 'empty_launch_us' || fail "--help does not list the keys"
expect 64 'expected 2 to 10000' "$bench" --iterations 1 one.hepb
expect 1 'No such file' "$bench" nowhere.hepb
finish
