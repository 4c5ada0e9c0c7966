# Small layers, long latencies: weights of several layers cross the slowest level as one collective. Losses and weights
# are those of bundles that go one by one, to the bit, by threads, by MPI and on an emulated GPU; bytes are the plan's;
# the planner takes buckets where start-ups are most of the time, and none where they are not.
# builds: fast  seconds: 40
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
model() { # NAME BUCKET LATENCY MODEL PLAN
  cat >"$1.hep" <<HEP
cluster far {
  level dc  { count = 2  bandwidth = 200 Mbit/s  latency = $3 }
  level gpu { count = 2  bandwidth = 4 Gbit/s    latency = 20 us }
  device    { compute = 4 GFLOP/s  memory = 2 GB  memory_bandwidth = 8 GB/s }
}
model small {
  hidden = 32  heads = 2  vocabulary = 128  sequence = 32  batch = 1  $4
  moe { experts = 8  top_k = 2  inner = 32 }
}
plan { pass = training  bucket = $2  ${5:-} }
training { clip = 1 }
HEP
}
saved() { find "$1" -name 'rank-*' -exec cksum {} + | sed "s: [^ ]*/: :" | sort; }

for case in "one|layers = 5  dtype = f32|" "several|layers = 4  first_dense = 1  dtype = bf16|micro_batches = 3"; do
  IFS='|' read -r name shape plan <<<"$case"
  for domain in dc=2,gpu=1 dc=1,gpu=2; do
    for bucket in none 3; do
      model "$name" $bucket '30 ms' "$shape" "$plan"
      expect 0 '' "$HEPC" --domain $domain "$name.hep" -o $bucket.hepb
      expect 0 '' "$HEPC" --check $bucket.hepb
      expect 0 '' "$HEPC" --dump=ir $bucket.hepb -o $bucket.ir
      expect 0 '' "$HEPC" --dump=json $bucket.hepb -o $bucket.json
      rm -rf threads.$bucket
      expect 0 '' "$HEP_RUN" -n 2 --warmup 0 --checkpoint threads.$bucket --json=run.$bucket.json $bucket.hepb
      saved threads.$bucket >threads.$bucket.sums
    done
    cmp -s threads.none.sums threads.3.sums ||
      fail "$name, $domain: buckets change weights"
    python3 - $domain <<'PYTHON' || fail "$name, $domain"
import json, sys
runs = [json.load(open("run.%s.json" % bucket)) for bucket in ("none", "3")]
plans = [json.load(open("%s.json" % bucket)) for bucket in ("none", "3")]
assert [plan["bucket"] for plan in plans] == [0, 3]
assert runs[0]["loss"] == runs[1]["loss"]
for key in ("gather_bytes", "reduce_bytes"):
    sent = [[level[key] for level in run["traffic"]] for run in runs]
    planned = [level[key] + level["dense_" + key] for level in plans[0]["traffic"]]
    assert sent[0] == sent[1], (key, sent)
    assert all(abs(x - y) <= 1e-9 * y + 1e-3 for x, y in zip(sent[0], planned)), (key, sent[0], planned)
joined = [open("%s.ir" % bucket).read().count("joined yes") for bucket in ("none", "3")]
assert joined[0] == 0 and joined[1] >= 4, joined
# Where nothing but weights crosses the slow level, nearly a latency for each that joins.
times = [plan["solution"]["simulated_s"] for plan in plans]
assert "dc=1" in sys.argv[1] or times[1] < times[0] - 0.030 * 0.8 * joined[1], (times, joined)
PYTHON
  done
  if has_mpi 3.hepb; then
    rm -rf mpi && expect 0 '' mpirun --oversubscribe -n 4 "$HEP_RUN" -n 2 --warmup 0 --checkpoint mpi 3.hepb
    saved mpi | cmp -s - threads.3.sums || fail "$name: MPI and threads differ"
  fi
  if [ -n "${HEP_RUN_EMULATED:-}" ]; then
    for bucket in none 3; do
      rm -rf gpu.$bucket
      expect 0 '' "$HEP_RUN_EMULATED" --engine=cuda -n 1 --warmup 0 --checkpoint gpu.$bucket $bucket.hepb
    done
    saved gpu.none >gpu.sums
    saved gpu.3 | cmp -s - gpu.sums || fail "$name: buckets change weights on a GPU"
  fi
done

# The planner: forced buckets none the better where latency is nothing; its own at least as good as any.
for latency in '30 ms' '1 us'; do
  for bucket in none auto 1 8; do
    model planned $bucket "$latency" 'layers = 8  dtype = f32'
    expect 0 '' "$HEPC" planned.hep --dump=json -o planned.$bucket.json
  done
  python3 - "$latency" <<'PYTHON' || fail "what the planner makes of $latency"
import json, sys
plans = {bucket: json.load(open("planned.%s.json" % bucket)) for bucket in ("none", "auto", "1", "8")}
times = {bucket: plan["solution"]["simulated_s"] for bucket, plan in plans.items()}
assert times["auto"] <= 1.01 * min(times.values()), times
if sys.argv[1] == "1 us":
    assert plans["auto"]["bucket"] == 0, plans["auto"]["bucket"]
else:
    assert plans["auto"]["bucket"] >= 4 and times["auto"] < times["none"] / 2, (times, plans["auto"]["bucket"])
PYTHON
done
"$HEPC" --dump=summary planned.hep | grep -q 'weights of 8 layers cross the slowest level together' || fail 'summary'
model planned 0 '1 ms' 'layers = 8' && expect 3 "'bucket' must be" "$HEPC" planned.hep
finish
