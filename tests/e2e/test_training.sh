# Training plans as they run: the loss falls, every strategy trains as plain EP does, threads and MPI give the same
# bits, the bytes are the plan's, and what cannot continue stops with a reason.
# builds: fast  seconds: 10
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
cat >model.hep <<'HEP'
cluster four {
  level dc  { count = 2  bandwidth = 1 Gbit/s  latency = 1 ms }
  level gpu { count = 2  bandwidth = 4 Gbit/s  latency = 10 us }
  device    { compute = 4 GFLOP/s  memory = 512 MB  memory_bandwidth = 1 GB/s }
}
model small {
  layers = 2  hidden = 32  heads = 4  vocabulary = 64  sequence = 16  batch = 4  dtype = f32
  moe { experts = 8  top_k = 2  inner = 48  activation = gelu }
}
plan { pass = training }
training { learning_rate = 0.01  warmup = 3  decay = 60  clip = 0.5 }
HEP

cat >check.py <<'PYTHON'
import json, sys
def losses(name):
    return json.load(open(name + ".json"))["loss"]
base = losses("ep")
begin, end = sum(base[:5]) / 5, sum(base[-5:]) / 5
assert end < begin - 0.1, ("the loss does not fall", begin, end)
for name in sys.argv[1:]:
    other = losses(name)
    assert len(other) == len(base)
    worst = max(abs(a / b - 1) for a, b in zip(base, other))
    assert worst < 2e-4, "%s: losses differ from plain EP's by %g" % (name, worst)
    # What the plan says of sums is what was sent; exchanges depend on the routing.
    run, plan = json.load(open(name + ".json")), json.load(open(name + ".plan.json"))
    for level, planned in zip(run["traffic"], plan["traffic"]):
        for key in ("gather_bytes", "reduce_bytes"):
            want = planned[key] + planned["dense_" + key]
            assert abs(level[key] - want) <= 1e-6 * max(want, 1), (name, key, level, planned)
PYTHON

run() { # NAME OPTIONS...
  local name=$1
  shift
  expect 0 '' "$HEPC" "$@" -o "$name.hepb" "${model:-model.hep}" &&
    expect 0 '' "$HEPC" --dump=json -o "$name.plan.json" "$name.hepb" &&
    expect 0 '' "$HEP_RUN" --warmup 0 -n 20 --json="$name.json" "$name.hepb"
}
run ep --domain ep --dispatch naive
run dedup --domain ep --dispatch dedup
run gather --domain gather
run outer --domain dc=2,gpu=1
run inner --domain dc=1,gpu=2
run again --domain "0-1:dc=2,gpu=2,regather"
run mixed --domain "0:dc=2,gpu=1; 1:dc=1,gpu=2,regather"
run plain -O0 --domain dc=2,gpu=1
python3 check.py ep dedup gather outer inner again mixed plain || fail "strategies do not train alike"

# Padded messages change how many bytes travel, and nothing else: tokens are dropped where they are.
sed 's/pass = training/&  capacity = 1.25  exchange = how/; 1i let how = counted' model.hep >drop.hep
for domain in dc=1,gpu=1 dc=2,gpu=1 dc=1,gpu=2; do
  model=drop.hep run counted --domain $domain
  model=drop.hep run padded --domain $domain -D how=padded
  python3 - <<'PYTHON' || fail "padded, $domain"
import json
counted, padded, plan = (json.load(open(name)) for name in ("counted.json", "padded.json", "padded.plan.json"))
assert counted["loss"] == padded["loss"]
assert plan["exchange"] == "padded" and "counted" in plan["baselines"]
for few, many, planned in zip(counted["traffic"], padded["traffic"], plan["traffic"]):
    assert many["bytes"] == many["planned_bytes"] and many["exchange_bytes"] == planned["exchange_bytes"], (many, planned)
    assert abs(many["exchange_bytes"] - many["padding_bytes"] - few["exchange_bytes"]) < 1e-6, (few, many)
    assert few["padding_bytes"] == 0 and 0 <= planned["padding_bytes"] <= planned["exchange_bytes"]
assert sum(level["padding_bytes"] for level in padded["traffic"]) > 0
PYTHON
  expect 0 '' "$HEP_RUN" --warmup 0 -n 1 --check padded.hepb
  grep -q 'padded exchanges over .* of the bytes of rows were rows' out || fail "the report does not say what is padding"
done

# Iterations of several micro-batches: every strategy trains alike, sums of gradients and gathers are sent once.
mkdir loop
sed 's/pass = training/&  micro_batches = 3  recompute = full/; s/batch = 4/batch = 1/' model.hep >loop/model.hep
(
  cd loop || exit 1
  run ep --domain ep --dispatch naive
  run inner --domain dc=1,gpu=2
  run loop --domain "0:dc=2,gpu=1; 1:dc=2,gpu=2,regather"
  python3 ../check.py ep inner loop || fail "strategies do not train alike in three micro-batches"
  [ "$failures" = 0 ]
) || fail "three micro-batches"
mv loop/loop.hepb loop/loop.json .

# Experts that the GPUs do not divide: they own parts, and train as with every other choice of domains.
mkdir parts
for experts in 3 6; do
  sed "s/experts = 8/experts = $experts/" model.hep >parts/model.hep
  (
    cd parts || exit 1
    run ep --domain ep --dispatch naive
    run gather --domain gather
    run again --domain "0-1:dc=2,gpu=2,regather"
    run parts --domain "0:dc=2; 1:dc=2,gpu=2"
    python3 ../check.py ep gather again parts || fail "$experts experts on four GPUs do not train alike"
    expect 0 '' "$HEP_RUN" --warmup 0 -n 1 --check parts.hepb
    [ "$failures" = 0 ]
  ) || fail "$experts experts on four GPUs"
done
mv parts/parts.hepb parts/parts.json .

# The limit to the gradient's norm is felt.
sed 's/clip = 0.5/clip = off/' model.hep >free.hep
expect 0 '' "$HEPC" --domain ep free.hep -o free.hepb
expect 0 '' "$HEP_RUN" --warmup 0 -n 20 --json=free.json free.hepb
python3 -c '
import json
a, b = (json.load(open(name + ".json"))["loss"] for name in ("ep", "free"))
assert a[0] == b[0] and max(abs(x / y - 1) for x, y in zip(a, b)) > 1e-3, "clipping changes nothing"' ||
  fail 'the norm is not limited'

# The first iteration's forward pass against the dense reference.
expect 0 '' "$HEP_RUN" --warmup 0 -n 1 --check outer.hepb
expect 2 'the first iteration' "$HEP_RUN" --check outer.hepb

printf 'the quick brown fox jumps over the lazy dog. %.0s' $(seq 40) >text
expect 3 'vocabulary' "$HEP_RUN" --data text outer.hepb
sed 's/vocabulary = 64/vocabulary = 128/' model.hep >wide.hep
expect 0 '' "$HEPC" wide.hep -o wide.hepb
expect 0 '' "$HEP_RUN" --warmup 0 -n 60 --learning-rate 0.01 --data text --json=text.json wide.hepb
python3 -c '
import json
loss = json.load(open("text.json"))["loss"]
assert loss[-1] < 0.6 * loss[0], (loss[0], loss[-1])' || fail "a text that repeats is not learned"
expect 5 'not a finite number' "$HEP_RUN" --warmup 0 -n 20 --learning-rate 1e30 outer.hepb
expect 2 'learning-rate' "$HEP_RUN" --learning-rate -1 outer.hepb

"$HEP_RUN" --communicator mpi outer.hepb >/dev/null 2>err
if [ -z "${HEP_WITHOUT_MPI:-}" ] && command -v mpirun >/dev/null && ! grep -q 'built without MPI' err; then
  use_mpi
  export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0 # MPI keeps what it allocated
  for name in mixed padded parts loop; do
    expect 0 '' timeout 100 mpirun --oversubscribe -n 4 "$HEP_RUN" --warmup 0 -n 20 --json=mpi.json $name.hepb &&
      { python3 -c 'import json, sys
a, b = (json.load(open(name + ".json")) for name in ("mpi", sys.argv[1]))
assert a["loss"] == b["loss"] and a["traffic"] == b["traffic"]' $name || fail "MPI and threads train $name differently"; }
  done
else
  echo "no MPI: training by processes is not checked"
fi
finish
