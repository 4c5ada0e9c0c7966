# Experts and gradients that travel compressed: training follows the dense run as closely as the codec allows, threads
# and MPI give the same bits, and the bytes on the links are the plan's.
# builds: fast  seconds: 12
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
cat >model.hep <<'HEP'
cluster four {
  level dc  { count = 2  bandwidth = 1 Gbit/s  latency = 1 ms }
  level gpu { count = 2  bandwidth = 4 Gbit/s  latency = 10 us }
  device    { compute = 4 GFLOP/s  memory = 512 MB  memory_bandwidth = 1 GB/s }
}
model small {
  layers = 2  hidden = 32  heads = 4  vocabulary = 64  sequence = 16  batch = 4  dtype = DTYPE
  moe { experts = 8  top_k = 2  inner = 80  activation = gelu }
}
plan { pass = PASS  migration { MIGRATION }  OTHERS }
training { learning_rate = 0.01 }
HEP

others= # of the plan block
compile() { # NAME DTYPE PASS MIGRATION OPTIONS...
  local name=$1 dtype=$2 pass=$3 migration=$4
  shift 4
  sed "s/DTYPE/$dtype/; s/PASS/$pass/; s/MIGRATION/$migration/; s/OTHERS/$others/" model.hep >"$name.hep"
  [ "$pass" = training ] || sed -i '/^training/d' "$name.hep"
  expect 0 '' "$HEPC" "$@" -o "$name.hepb" "$name.hep" && expect 0 '' "$HEPC" --dump=json -o "$name.plan.json" "$name.hepb" &&
    expect 0 '' "$HEPC" --check "$name.hepb"
}
run() { # NAME DTYPE MIGRATION OPTIONS...
  local name=$1 dtype=$2 migration=$3
  shift 3
  compile "$name" "$dtype" training "$migration" "$@" &&
    expect 0 '' "$HEP_RUN" --warmup 0 -n 24 --json="$name.json" "$name.hepb"
}
# 4096 elements a block at ratio 1 are all of them, with 8 bits each.
run dense f32 'codec = dense' --domain dc=2,gpu=2
run whole_delta f32 'codec = delta  ratio = 1' --domain dc=2,gpu=2
run whole_sr f32 'codec = sr  ratio = 1  shared_every = 4' --domain dc=2,gpu=2
run whole_topk f32 'codec = dense  gradient = topk  gradient_ratio = 1.001' --domain dc=2,gpu=2
run delta f32 'codec = delta  ratio = 20' --domain dc=2,gpu=2
run sign f32 'codec = sign' --domain dc=2,gpu=2
run sr f32 'codec = sr  ratio = 20  shared_every = 4' --domain dc=2,gpu=2
run alone f32 'codec = sr  ratio = 20  shared_every = 0' --domain dc=2,gpu=1
run again f32 'codec = sr  ratio = 20  shared_every = 8' --domain "0-1:dc=2,gpu=2,regather"
run topk f32 'codec = dense  gradient = topk  gradient_ratio = 20' --domain dc=2,gpu=1
run q4 f32 'codec = sign  gradient = q4' --domain dc=2,gpu=2
run levels f32 'codec = sign  gradient = q4  levels = dc' --domain dc=2,gpu=2
run inside f32 'codec = sign  gradient = q4  levels = dc' --domain dc=2,gpu=2,once=dc
run ternary f32 'codec = sign  gradient = ternary' --domain dc=2,gpu=1
run short bf16 'codec = delta  ratio = 100  gradient = topk  gradient_ratio = 100' --domain dc=2,gpu=2
others='dense { codec = sign  gradient = q4 }' # dense weights, too
run shared f32 'codec = sign  gradient = q4' --domain dc=2,gpu=2
others='dense { codec = q4  gradient = ternary  levels = dc }'
run shared_outer f32 'codec = dense' --domain dc=2,gpu=1
run shared_inside bf16 'codec = sign  gradient = q4  levels = dc' --domain dc=2,gpu=2,once=dc
others='dense { codec = delta  ratio = 20  gradient = topk  gradient_ratio = 20 }  once_dense = all'
run shared_largest f32 'codec = sr  ratio = 20  shared_every = 4' --domain dc=1,gpu=2
others='dense { codec = delta  ratio = 1  gradient = q4 }'
run shared_whole f32 'codec = dense' --domain dc=2,gpu=2
others='dense { codec = sign  gradient = ternary }  whole_iterations = 9'
run begun_whole f32 'codec = sign  gradient = q4' --domain dc=2,gpu=2
others=
run all f32 'codec = delta  ratio = 20  gradient = topk  gradient_ratio = 20' --domain "0:dc=2,gpu=2; 1:dc=1,gpu=2"
run half f16 'codec = delta  ratio = 20  gradient = topk' --domain dc=2,gpu=2
run brain bf16 'codec = sr  ratio = 20  shared_every = 4  gradient = topk' --domain dc=2,gpu=2

cat >check.py <<'PYTHON'
import json, sys
def load(name):
    return json.load(open(name + ".json"))
dense = load(sys.argv[1])["loss"]
for name in sys.argv[2:]:
    run, plan = load(name), load(name + ".plan")
    for level, planned in zip(run["traffic"], plan["traffic"] if name != "begun_whole" else []):
        for key in ("gather_bytes", "reduce_bytes"):
            want = planned[key] + planned["dense_" + key]
            assert abs(level[key] - want) <= 1e-9 * want, (name, key, level, planned)
    loss = run["loss"]
    worst = max(abs(a / b - 1) for a, b in zip(dense, loss))
    first = abs(loss[0] / dense[0] - 1)
    limit, first_limit = (0.03, 1e-3) if "whole" in name and "begun" not in name else (0.1, 0.03)
    assert worst < limit and first < first_limit, "%s: losses differ from dense ones by %g" % (name, worst)
    assert sum(loss[-5:]) < sum(loss[:5]), (name, loss)
    if name in ("whole_sr", "sr", "again", "alone"):
        assert worst > 1e-6, name + " changed nothing"
# Sent once, what gathers of 20-fold compression cost; dense weights travel whole.
if sys.argv[1] != "dense":
    sys.exit()
# Whether what was decoded is gathered again changes no bit, and packets cross the outer level alone.
assert load("levels")["loss"] == load("inside")["loss"]
(outer, inner), whole = load("levels.plan")["traffic"], load("dense.plan")["traffic"]
assert outer["gather_bytes"] < whole[0]["gather_bytes"] / 30 and inner["gather_bytes"] == whole[1]["gather_bytes"]
# Dense weights by q4 over the outer level alone: 66 bytes for 128 elements of 4, a share at a time.
outer, inner = load("shared_outer.plan")["traffic"]
assert 7 < whole[0]["dense_gather_bytes"] / outer["dense_gather_bytes"] < 7.8, outer
assert 16 < whole[0]["dense_reduce_bytes"] / outer["dense_reduce_bytes"] < 18.3, outer
assert inner["dense_gather_bytes"] == inner["dense_reduce_bytes"] == whole[1]["dense_gather_bytes"], inner
# Iterations in which packets are whole lose nothing, but for the order of sums: 9 updates, 10 losses and 15 packets.
begun, dense_run = load("begun_whole"), load("dense")
apart = [abs(a / b - 1) for a, b in zip(begun["loss"], dense_run["loss"])]
assert max(apart[:9]) < 1e-5 < max(apart[10:]), apart
for level, of_dense, planned in zip(begun["traffic"], dense_run["traffic"], load("begun_whole.plan")["traffic"]):
    packed = planned["gather_bytes"] + planned["dense_gather_bytes"]
    want = (9 * of_dense["gather_bytes"] + 15 * packed) / 24
    assert abs(level["gather_bytes"] / want - 1) < 1e-9 and level["bytes"] == level["planned_bytes"], (level, want)
gathered = {name: load(name + ".plan")["traffic"][0]["gather_bytes"] for name in ("dense", "sr", "delta")}
assert 20 <= gathered["dense"] / gathered["delta"] < 22 and gathered["sr"] == gathered["delta"], gathered
PYTHON
python3 check.py dense whole_delta whole_sr whole_topk delta sign sr alone again topk q4 levels inside ternary short all half brain \
  shared shared_outer shared_inside shared_largest shared_whole begun_whole || fail "compressed training"

# Where GPUs own parts of experts packets are of their shares; a run that resumes knows what was sent and left out.
cp model.hep whole.hep && sed -i 's/experts = 8/experts = 6/' model.hep
run parts_dense f32 'codec = dense' --domain dc=2,gpu=2
run parts f32 'codec = sign  gradient = q4' --domain dc=2,gpu=2
run parts_levels bf16 'codec = delta  ratio = 20  gradient = ternary  levels = dc' --domain dc=2,gpu=2
run parts_topk bf16 'codec = delta  ratio = 20  gradient = topk' --domain dc=2,gpu=2
python3 check.py parts_dense parts parts_levels parts_topk || fail "compressed training of parts"
expect 0 '' "$HEP_RUN" --warmup 0 -n 12 --checkpoint halves --json=half1.json parts.hepb
expect 0 '' "$HEP_RUN" --warmup 0 -n 12 --resume halves --json=half2.json parts.hepb
python3 -c '
import json
whole, first, second = (json.load(open(n + ".json"))["loss"] for n in ("parts", "half1", "half2"))
assert whole == first + second, (whole, first, second)' || fail "parts: resumed losses are others"
# So does one of dense weights, while packets are whole and after that; and one that begins with weights alone.
for at in 5 12; do
  rm -rf halves
  expect 0 '' "$HEP_RUN" --warmup 0 -n $at --checkpoint halves --json=half1.json begun_whole.hepb
  expect 0 '' "$HEP_RUN" --warmup 0 -n $((24 - at)) --resume halves --json=half2.json begun_whole.hepb
  python3 -c '
import json
whole, first, second = (json.load(open(n + ".json"))["loss"] for n in ("begun_whole", "half1", "half2"))
assert whole == first + second, (whole, first, second)' || fail "dense weights: resumed losses are others"
done
rm -rf halves
expect 0 '' "$HEP_RUN" --warmup 0 -n 9 --checkpoint halves dense.hepb
expect 0 '' "$HEP_RUN" --warmup 0 -n 15 --resume halves --json=half2.json shared.hepb
python3 -c '
import json
dense, resumed = json.load(open("dense.json"))["loss"][9:], json.load(open("half2.json"))["loss"]
apart = [abs(a / b - 1) for a, b in zip(dense, resumed)]
assert apart[0] < 1e-6 < max(apart) < 0.03, apart' || fail "replicas were not made of the weights"
cp whole.hep model.hep

# After the last iteration receivers hold the replicas that owners believe they hold, byte for byte.
compile equal bf16 training 'codec = delta  ratio = 20  gradient = topk' --domain "0:dc=2,gpu=2; 1:dc=1,gpu=2" &&
  expect 0 '' "$HEP_RUN" -n 24 --checkpoint saved --every 24 equal.hepb
cat >replicas.py <<'PYTHON'
import json
of = json.load(open("saved/step-000024/manifest.json"))["checkpoint"]
def read(rank):
    data, buffers, at = open("saved/step-000024/rank-%05d" % rank, "rb").read(), {}, 0
    for b in of["buffers"]:
        if b["of"] == "equal":
            continue
        row = b["cols"] * (4 if b["dtype"] == "f32" else 2)
        buffers[b["name"]] = [data[at + i * row:at + (i + 1) * row] for i in range(b["rows"])]
        at += row * b["rows"]
    return buffers
ranks, compared, behind = [read(rank) for rank in range(4)], 0, 0
for choice in of["choices"]:
    sizes, layer = choice["domain"], "L%d." % choice["layer"]
    for rank in range(4):
        for owner in range(4):
            x, y = divmod(rank, 2), divmod(owner, 2)
            if rank == owner or any(x[l] // sizes[l] != y[l] // sizes[l] for l in range(2)):
                continue
            shard = y[0] % sizes[0] + y[1] % sizes[1] * sizes[0]
            for i, sent in enumerate(ranks[owner][layer + "sent"]):
                assert ranks[rank][layer + "replicas"][2 * shard + i] == sent, (layer, rank, owner)
                compared += 1
                behind += sent != ranks[owner][layer + "experts"][i]
assert compared == 2 * (12 + 4) and behind == compared, (compared, behind)
PYTHON
python3 replicas.py || fail "replicas differ from what was sent"

# The forward pass against a reference that applies the codec to the seeded weights; nothing else would pass.
for domain in dc=2,gpu=2 dc=1,gpu=2 dc=2,gpu=1; do
  for codec in 'sr  ratio = 20' 'sr  ratio = 20  levels = dc' 'sr  ratio = 64' 'sr  ratio = 20  shared_every = 0' 'delta  ratio = 20' sign; do
    compile check f32 forward "codec = $codec" --domain $domain &&
      expect 0 '' "$HEP_RUN" -n 2 --check check.hepb
  done
done
compile check bf16 forward 'codec = sr  ratio = 7' --domain dc=2,gpu=1 && expect 0 '' "$HEP_RUN" -n 2 --check check.hepb
expect 0 '' "$HEP_RUN" --warmup 0 -n 1 --check again.hepb

"$HEP_RUN" --communicator mpi sr.hepb >/dev/null 2>err
if [ -z "${HEP_WITHOUT_MPI:-}" ] && command -v mpirun >/dev/null && ! grep -q 'built without MPI' err; then
  use_mpi
  export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0 # MPI keeps what it allocated
  for name in sr all brain levels ternary shared_inside begun_whole; do
    expect 0 '' timeout 100 mpirun --oversubscribe -n 4 "$HEP_RUN" --warmup 0 -n 24 --json=$name.mpi.json $name.hepb &&
      { python3 -c '
import json, sys
threads, mpi = json.load(open(sys.argv[1] + ".json")), json.load(open(sys.argv[1] + ".mpi.json"))
assert threads["loss"] == mpi["loss"], "losses"
assert [l["bytes"] for l in threads["traffic"]] == [l["bytes"] for l in mpi["traffic"]], "bytes"' $name ||
        fail "$name: MPI and threads train differently"; }
  done
else
  echo "no MPI: training by processes is not checked"
fi
finish
