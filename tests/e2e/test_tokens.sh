# Token rows that travel in 8 or 4 bits: bytes on every level are the plan's, over three levels, naive and deduplicated,
# with one micro-batch and two, forward and training; threads and MPI give the same bits; --check passes with a tolerance
# that follows from the formats, and fails where a scale is wrong; training learns as with full rows.
# builds: fast  seconds: 10
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
cat >model.hep <<'HEP'
let how = full
let dispatch = dedup
let m = 1
cluster eight {
  level dc   { count = 2  bandwidth = 100 Mbit/s  latency = 1 ms }
  level node { count = 2  bandwidth = 1 Gbit/s    latency = 100 us }
  level gpu  { count = 2  bandwidth = 10 Gbit/s   latency = 10 us }
  device     { compute = 20 GFLOP/s  memory = 1 GB  memory_bandwidth = 5 GB/s }
}
model small {
  layers = 2  hidden = 72  heads = 4  head_dim = 16  vocabulary = 64  sequence = 16  batch = 2  dtype = DTYPE
  moe { experts = 16  top_k = 2  inner = 40  activation = swiglu  shared_experts = 1 }
}
plan { pass = PASS  domain = DOMAIN  dispatch = dispatch  micro_batches = m  TOKENS }
HEP

compile() { # NAME DTYPE PASS TOKENS OPTIONS...
  local name=$1
  sed "s/DTYPE/$2/; s/PASS/$3/; s/TOKENS/$4/; s/DOMAIN/${domain:-ep}/" model.hep >"$name.hep"
  [ "$3" = training ] || sed -i 's/micro_batches = m//; /^let m/d' "$name.hep"
  shift 4
  expect 0 '' "$HEPC" "$@" -o "$name.hepb" "$name.hep" && expect 0 '' "$HEPC" --dump=json -o "$name.plan.json" "$name.hepb" &&
    expect 0 '' "$HEPC" --check "$name.hepb"
}
run() { # NAME DTYPE PASS TOKENS OPTIONS...
  compile "$@" && expect 0 '' "$HEP_RUN" --warmup 0 -n 2 --routing balanced --json="$1.json" "$1.hepb"
}

# With a balanced routing and naive dispatch rows are as many as the plan expects: bytes are equal, not near.
mixed='tokens = fp8  tokens { combine = int8  dispatch_gradient = int4  combine_gradient = full }'
for dispatch in naive dedup; do
  for how in full fp8 int8 int4; do
    run "forward_${dispatch}_$how" f32 forward "tokens = how" -D "how=$how" -D "dispatch=$dispatch"
    for m in 1 2; do
      run "training_${dispatch}_${how}_$m" f32 training "tokens = how" -D "how=$how" -D "dispatch=$dispatch" -D "m=$m"
    done
  done
  run "training_${dispatch}_mixed_2" f32 training "$mixed" -D "dispatch=$dispatch" -D m=2
done
run again_naive_mixed_1 bf16 training "$mixed recompute = full" -D dispatch=naive
run again_naive_full_1 bf16 training "recompute = full" -D dispatch=naive
# Over the outer level alone; and padded, where messages have one size.
domain='{ dc = 1  node = 2  gpu = 2 }' run outer_naive_mixed_1 f16 training "$mixed" -D dispatch=naive
domain='{ dc = 1  node = 2  gpu = 2 }' run outer_naive_full_1 f16 training "" -D dispatch=naive
run padded_naive_mixed_1 f32 training "$mixed capacity = 1.5  exchange = padded" -D dispatch=naive
run padded_naive_full_1 f32 training "capacity = 1.5  exchange = padded" -D dispatch=naive

cat >check.py <<'PYTHON'
import glob, json
# Bytes of a row of 72: elements, scales of two bytes for 128 or 32 of them, up to a multiple of 4.
PACKED = {"fp8": 76, "int8": 76, "int4": 44}  # 72 + 2 + 2, 36 + 2 * 3 + 2
WAYS = ("dispatch", "combine", "dispatch_gradient", "combine_gradient")
MIXED = dict(zip(WAYS, ("fp8", "int8", "int4", "full")))
load = lambda name: json.load(open(name + ".json"))
names = sorted(n[:-10] for n in glob.glob("*.plan.json"))
assert len(names) == 32, names
for name in names:
    kind, dispatch, how = name.split("_")[:3]
    run, plan, full = load(name), load(name + ".plan"), name.replace("mixed", "full").replace(how, "full", 1)
    ways = WAYS if kind != "forward" else WAYS[:2]
    formats = MIXED if how == "mixed" else dict.fromkeys(WAYS, how)
    assert plan["tokens"] == {way: formats[way] for way in ways}, (name, plan["tokens"])
    element = {"again": 2, "outer": 2}.get(kind, 4)
    of = lambda way: PACKED.get(formats[way], 72 * element)
    # Activations that are computed again dispatch their rows twice.
    row = sum(of(way) for way in ways) + (of("dispatch") if kind == "again" else 0)
    whole = 72 * element * (len(ways) + (kind == "again"))
    for level, planned, dense, other in zip(run["traffic"], plan["traffic"], load(full + ".plan")["traffic"], load(full)["traffic"]):
        assert abs(planned["exchange_bytes"] * whole - dense["exchange_bytes"] * row) <= 1e-9 * whole * dense["exchange_bytes"], name
        assert abs(planned["routing_bytes"] - dense["routing_bytes"]) <= 1e-9 * dense["routing_bytes"], name
        # Balanced routing sends as many rows whatever they are: measured bytes are those of full rows, of another size.
        assert level["exchange_bytes"] * whole == other["exchange_bytes"] * row, (name, level, other)
        if dispatch == "naive":
            assert abs(level["exchange_bytes"] - planned["exchange_bytes"]) <= 1e-6 * planned["exchange_bytes"], (name, level, planned)
            assert abs(level["routing_bytes"] - planned["routing_bytes"]) <= 1e-6 * planned["routing_bytes"], (name, level, planned)
    for a, b in zip(run["loss"], load(full)["loss"]):
        assert abs(a / b - 1) < 0.005 and (how == "full" or a != b), (name, a, b)
PYTHON
python3 check.py || fail "bytes of packed rows"

# Which way is packed changes what is computed: that of gradients no loss before the first update.
for way in dispatch combine dispatch_gradient combine_gradient; do
  compile "one_$way" f32 training "tokens { $way = int4 }" -D m=2 &&
    expect 0 '' "$HEP_RUN" --warmup 0 -n 2 --routing balanced --json="one_$way.json" "one_$way.hepb"
done
python3 -c '
import json
full, losses = json.load(open("training_dedup_full_2.json"))["loss"], {}
for way in ("dispatch", "combine", "dispatch_gradient", "combine_gradient"):
    losses[way] = json.load(open("one_%s.json" % way))["loss"]
    assert (losses[way][0] == full[0]) == way.endswith("gradient"), (way, losses[way], full)
    assert losses[way][1] != full[1], (way, losses[way], full)
assert len({tuple(l) for l in losses.values()}) == 4, losses' || fail "each way by itself"

# The reference is of full rows; what packing may add to it is derived.
for how in fp8 int8 int4; do
  for dispatch in naive dedup; do
    compile "checked" f32 forward "tokens = how" -D "how=$how" -D "dispatch=$dispatch" &&
      expect 0 '' "$HEP_RUN" --warmup 0 -n 1 --check checked.hepb
  done
done
compile checked bf16 training "$mixed" && expect 0 '' "$HEP_RUN" --warmup 0 -n 1 --check checked.hepb

# Threads and processes: the same bits.
"$HEP_RUN" --communicator mpi checked.hepb >/dev/null 2>err
if [ -z "${HEP_WITHOUT_MPI:-}" ] && command -v mpirun >/dev/null && ! grep -q 'built without MPI' err; then
  use_mpi
  export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0 # MPI keeps what it allocated
  for name in training_dedup_mixed_2 training_naive_int4_1; do
    expect 0 '' timeout 100 mpirun --oversubscribe -n 8 "$HEP_RUN" --warmup 0 -n 2 --routing balanced --json=mpi.json "$name.hepb" &&
      python3 -c '
import json, sys
a, b = json.load(open(sys.argv[1])), json.load(open("mpi.json"))
assert a["loss"] == b["loss"], (a["loss"], b["loss"])
for x, y in zip(a["traffic"], b["traffic"]):
    assert x["exchange_bytes"] == y["exchange_bytes"], (x, y)' "$name.json" || fail "$name: MPI differs from threads"
  done
fi

# Sixty iterations with all rows in fp8 learn as those with full ones; runs that differ by rounding alone are 1 to 3 %
# apart by then.
for how in full fp8; do
  compile "learn_$how" f32 training "tokens = how" -D "how=$how" &&
    expect 0 '' "$HEP_RUN" --warmup 0 -n 60 --learning-rate 0.01 --json="learn_$how.json" "learn_$how.hepb"
done
python3 -c '
import json
full, packed = (json.load(open("learn_%s.json" % how))["loss"] for how in ("full", "fp8"))
a, b = sum(full[-10:]) / 10, sum(packed[-10:]) / 10
assert a < full[0] - 0.5 and abs(b / a - 1) < 0.05, (full[0], a, b)' || fail "learning with packed rows"

# What the language refuses.
refuse() { # PATTERN PASS TOKENS
  sed "s/DTYPE/f32/; s/PASS/$2/; s/TOKENS/$3/; s/DOMAIN/ep/" model.hep >bad.hep
  [ "$2" = training ] || sed -i 's/micro_batches = m//; /^let m/d' bad.hep
  expect 3 "$1" "$HEPC" bad.hep
}
refuse "a forward pass has no gradients: 'combine_gradient' goes with pass 'training'" forward 'tokens { combine_gradient = fp8 }'
refuse "'tokens' must be full, fp8, int8, int4 or auto, got 'fp4'" training 'tokens = fp4'
refuse "unknown key 'gather' in 'tokens'" training 'tokens { gather = fp8 }'
finish
