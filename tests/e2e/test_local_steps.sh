# Local steps: data centres train apart and meet once in so many iterations. When weights are equal and when not, what
# meeting costs, and to what training the outcome is equal.
# builds: fast  seconds: 15
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1

cat >base.hep <<'HEP'
cluster two_sites {
  level dc  { count = SITES  bandwidth = 20 Mbit/s  latency = 5 ms }
  level gpu { count = 2  bandwidth = 1 Gbit/s  latency = 50 us }
  device    { compute = 2.5 GFLOP/s  memory = 1 GB  memory_bandwidth = 2 GB/s }
}
model small {
  layers = 3  hidden = 32  heads = 4  vocabulary = 128  sequence = 16  batch = 1  dtype = f32
  moe { experts = 4  top_k = 2  inner = 64  activation = gelu  every = 2 }
}
plan { PLAN }
training { TRAINING }
HEP
# A plan of so many sites, and its losses in 10 iterations: name, sites, plan block, training block, options of hep-run
train() {
  sed "s/SITES/$2/; s/PLAN/$3/; s/TRAINING/$4/" base.hep >"$1.hep"
  "$HEPC" "$1.hep" -o "$1.hepb" >/dev/null && "$HEPC" --check "$1.hepb" >/dev/null || fail "no plan $1"
  # shellcheck disable=SC2086
  "$HEP_RUN" --seed 5 -n 10 --warmup 0 --json ${5:-} "$1.hepb" >"$1.json" || fail "no run of $1"
}

# AdamW with an epsilon that outweighs every gradient is momentum SGD, linear in gradients: the mean of what data centres
# did apart in one iteration is what they would have done together.
sgd="learning_rate = 1000  epsilon = 10000  weight_decay = 0"
train together 2 '' "$sgd"
train each 2 'sync { level = dc  every = 1 }' "$sgd"
train fourth 2 'sync { level = dc  every = 4 }' "$sgd"
train together_micro 2 'micro_batches = 4' "$sgd"
train each_micro 2 'micro_batches = 4  lap = 2  once_dense = none  sync { level = dc  every = 1 }' "$sgd"
# AdamW itself is not linear. With the same data everywhere there is nothing to average: it is one data centre's training.
printf 'seventeen letters' >same # as long as one batch
train same 2 'sync { level = dc  every = 4 }' 'clip = 1' '--data same --validation 0'
train alone 1 '' 'clip = 1' '--data same --validation 0'
# With one data centre nobody else is met.
train one 1 'sync { level = dc  every = 4 }' ''
train plain 1 '' ''
python3 - <<'PYTHON' || fail "not the training that it is equal to"
import json
def far(a, b):
    one, other = (json.load(open(name + ".json"))["loss"] for name in (a, b))
    return max(abs(x / y - 1) for x, y in zip(one, other))
assert far("each", "together") < 1e-6, far("each", "together") # rounding: of a sum, of its mean, of a difference
assert far("each_micro", "together_micro") < 1e-6, far("each_micro", "together_micro")
assert far("fourth", "together") > 1e-4, far("fourth", "together") # else the test could not fail
assert far("same", "alone") < 1e-6, far("same", "alone")
assert far("one", "plain") < 1e-6, far("one", "plain")
PYTHON

# Weights differ between data centres, and are equal, bit by bit, after every fourth iteration; where they met last is
# always equal. What is read are the files of ranks, whose buffers the manifest lists.
cat >equal.py <<'PYTHON'
import json, sys
steps = {}
for done in map(int, sys.argv[2:]):
    path = "%s/step-%06d/" % (sys.argv[1], done)
    buffers = json.load(open(path + "manifest.json"))["checkpoint"]["buffers"]
    ranks = [open(path + "rank-%05d" % rank, "rb").read() for rank in range(4)]
    at, found = 0, {}
    for of in buffers:
        if of["of"] == "equal":
            continue
        end = at + of["rows"] * of["cols"] * 4
        kind = of["name"].split(".")[-1] if of["name"].endswith((".state", ".outer")) else "weights"
        found.setdefault(kind, set()).add(all(ranks[r][at:end] == ranks[r + 2][at:end] for r in (0, 1)))
        at = end
    assert found == {"weights": {done % 4 == 0}, "state": {False}, "outer": {True}}, (done, found)
PYTHON
for optimizer in average nesterov; do
  train "$optimizer" 2 "sync { level = dc  every = 4  optimizer = $optimizer }" 'clip = 1'
  "$HEP_RUN" --seed 5 -n 7 --warmup 0 --checkpoint "$optimizer" "$optimizer.hepb" >/dev/null || fail "no checkpoint"
  python3 equal.py "$optimizer" 7 || fail "not apart after 7 iterations"
  "$HEP_RUN" -n 1 --warmup 0 --resume "$optimizer" --checkpoint "$optimizer" "$optimizer.hepb" >/dev/null || fail "no resume"
  python3 equal.py "$optimizer" 8 || fail "not equal after 8 iterations"
  "$HEP_RUN" -n 2 --warmup 0 --json --resume "$optimizer" "$optimizer.hepb" >rest.json || fail "no resume"
  python3 - "$optimizer" <<'PYTHON' || fail "resumed otherwise than trained on"
import json, sys
assert json.load(open("rest.json"))["loss"] == json.load(open(sys.argv[1] + ".json"))["loss"][8:]
PYTHON
done
cmp -s average.json nesterov.json && fail "both optimizers do the same"

# Bytes are those of the plan: what a GPU owns, there and back, once in four iterations.
"$HEP_RUN" --seed 5 -n 8 --warmup 0 --json average.hepb >eight.json || fail "no run"
"$HEPC" --dump=json average.hepb >plan.json
python3 - <<'PYTHON' || fail "bytes of meeting"
import json
run, plan = json.load(open("eight.json")), json.load(open("plan.json"))
for mean, apart in zip(run["loss"], run["loss_apart"]): # each data centre's, on data of its own
    assert len(apart) == 2 and apart[0] != apart[1] and abs(sum(apart) / 2 - mean) < 1e-9, (mean, apart)
def share(elements): # of 2 GPUs, rounded up to 8 elements
    return 8 * -(-elements // 16)
h, inner, experts = 32, 64, 4
attention = 2 * h + 4 * h * h
moe = attention + 2 * h + h * experts # and the norm and router before the experts
ffn = attention + 2 * h + 2 * h * 4 * h
embedding = (128 + 16 + 2) * h
owned = 2 * share(ffn) + share(moe) + share(embedding) + experts * 2 * h * inner // 2
sent = 2 * (2 - 1) / 2 * owned * 4 / 4
assert plan["traffic"][0]["level"] == "dc" and run["traffic"][0]["level"] == "dc"
assert plan["traffic"][0]["reduce_bytes"] == sent, (plan["traffic"][0], sent)
assert run["traffic"][0]["bytes"] == sent, (run["traffic"][0], sent)
PYTHON

# A training that began together goes on apart; what was trained apart has moments of its own in every data centre.
"$HEP_RUN" --seed 5 -n 4 --warmup 0 --checkpoint begun together.hepb >/dev/null || fail "no checkpoint"
train apart 2 'sync { level = dc  every = 4  optimizer = nesterov }' "$sgd" '--resume begun'
expect 3 'workers trained apart' "$HEP_RUN" -n 1 --resume nesterov together.hepb
# Processes do what threads do.
use_mpi
if command -v mpirun >/dev/null; then
  mpirun --oversubscribe -n 4 "$HEP_RUN" --seed 5 -n 10 --warmup 0 --json nesterov.hepb >mpi.json ||
    fail "no run of processes"
  python3 -c 'import json
assert json.load(open("mpi.json"))["loss"] == json.load(open("nesterov.json"))["loss"]' || fail "threads and processes differ"
fi
finish
