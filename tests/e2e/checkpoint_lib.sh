# Helpers of the tests of checkpoints: a small model, its plans by strategy, the losses of runs.
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
cat >model.hep <<'HEP'
let dcs = 2
cluster four {
  level dc  { count = dcs  bandwidth = 1 Gbit/s  latency = 1 ms }
  level gpu { count = 2  bandwidth = 4 Gbit/s  latency = 10 us }
  device    { compute = 4 GFLOP/s  memory = 512 MB  memory_bandwidth = 1 GB/s }
}
model small {
  layers = 2  hidden = 32  heads = 4  vocabulary = 256  sequence = 16  batch = 4  dtype = f32
  moe { experts = 8  top_k = 2  inner = 48  activation = gelu }
}
plan { pass = training }
training { warmup = 3  decay = 30  final_rate = 0.1  clip = 1 }
HEP
compile() { # NAME OPTIONS...
  expect 0 '' "$HEPC" -o "$1.hepb" "${@:2}" model.hep || finish
}
train() { # NAME OPTIONS... : NAME.json; a checkpoint or a plan among the options
  expect 0 '' "$HEP_RUN" --learning-rate 0.01 --quiet --json="$1.json" "${@:2}"
}
# losses FILE...: one loss a line
losses() {
  python3 -c 'import json, sys
for name in sys.argv[1:]: print(*map(repr, json.load(open(name + ".json"))["loss"]), sep="\n")' "$@"
}
