# The CUDA engine against the host engine, and how its processes meet and fail, on the emulation of CUDA and NCCL: same
# losses within a tolerance, same bytes. It says nothing about a GPU; scripts/test-gpu does.
# builds: fast  seconds: 30
. "$(dirname "$0")/lib.sh"
[ -n "${HEP_RUN_EMULATED:-}" ] || { echo "SKIP: no emulation of CUDA in this build"; exit 77; }
cd "$work" || exit 1
export EMULATED=$HEP_RUN_EMULATED
export HEP_EMULATION_ASYNC=100 # streams are threads, and late: what the engine does not wait for shows
export HEP_EXPERT_KERNEL=wgmma # comparing it to wmma first takes every process a second

# agree HOST.json CUDA.json [UNLIKE.json...]: losses within what rounding explains, bytes alike.
agree() {
  grep -q '"engine":.*"cuda"' "$2" || { echo "not the CUDA engine"; return 1; }
  "$HEP_SOURCE/scripts/gpu/compare.py" "$1" "$2" ${3:+--unlike "${@:3}"} || { cat "$1" "$2" | grep -A9 '"loss"'; return 1; }
}

await_iterations() {
  local i
  for i in $(seq 400); do
    [ ! -s losses.csv ] || [ "$(wc -l <losses.csv)" -lt 5 ] || return 0
    sleep 0.05
  done
  fail "four iterations took more than $((i / 20)) s"
}

# With STUCK=RANK the device of that rank hangs for a while; with VICTIM=RANK that rank is killed once four iterations
# are in losses.csv.
# processes COUNT ARGUMENTS...: as torchrun would start them; the exit code of the first that failed. Leaves err.RANK.
processes() {
  local count=$1 port=$((RANDOM % 8000 + 21000)) code=0 ended rank
  shift
  local pids=()
  for rank in $(seq 0 $((count - 1))); do
    HEP_EMULATION_STUCK=$([ "${STUCK:-}" != "$rank" ] || echo 1000) RANK=$rank WORLD_SIZE=${WORLD:-$count} LOCAL_RANK=$rank MASTER_ADDR=127.0.0.1 MASTER_PORT=$port \
      timeout 120 "$EMULATED" --engine cuda --timeout 20 "$@" >"out.$rank" 2>"err.$rank" </dev/null &
    pids+=($!)
  done
  [ -z "${VICTIM:-}" ] || { await_iterations; kill -KILL "$(pgrep -P "${pids[$VICTIM]}")" 2>/dev/null; }
  for rank in "${!pids[@]}"; do
    wait "${pids[$rank]}" 2>/dev/null
    ended=$?
    [ "$code" -ne 0 ] || code=$ended
    [ "$ended" -ne 124 ] || fail "rank $rank of '$*' did not end"
  done
  return $code
}

cat >small.hep <<'HEP'
cluster small {
  level dc  { count = 2  bandwidth = 100 Mbit/s  latency = 1 ms }
  level gpu { count = 2  bandwidth = 1 Gbit/s    latency = 10 us }
  device    { compute = 10 GFLOP/s  memory = 1 GB  memory_bandwidth = 5 GB/s }
}
model small {
  layers = 2  hidden = 32  heads = 2  vocabulary = 64
  sequence = 16  batch = 2
  dtype = f32
  moe { experts = 8  top_k = 2  inner = 48  activation = swiglu }
}
plan { pass = forward }
HEP
sed 's/f32/bf16/' small.hep >bf16.hep
sed 's/f32/f16/; s/swiglu/gelu/' small.hep >f16.hep
sed 's/pass = forward/pass = training/' small.hep >training.hep
sed 's/pass = training/pass = training  dispatch = naive/' training.hep >naive.hep
sed 's/pass = training/pass = training  capacity = 1.25  exchange = padded/' training.hep >padded.hep
sed 's/pass = training/pass = training  migration { codec = sign  gradient = q4 }/' training.hep >codec.hep
sed 's/pass = training/pass = training  tokens = fp8  tokens { combine = int8  combine_gradient = int4 }/' training.hep >rows.hep
sed 's/tokens = fp8/tokens = int8/' rows.hep >int8.hep
sed 's/pass = forward/pass = forward  tokens = fp8/' bf16.hep >rows16.hep

sed 's/pass = training/pass = training  micro_batches = 3  recompute = none/' training.hep >kept.hep
sed 's/pass = training/pass = training  micro_batches = 3  recompute = full/; s/f32/bf16/' training.hep >again.hep
sed 's/pass = training/pass = training  micro_batches = 4  lap = 2  once_gradient = none/; s/f32/bf16/' training.hep >apart.hep

# name, domains, more options
on_host() {
  expect 0 '' "$HEPC" --domain "$2" "$1.hep" -o plan.hepb && expect 0 '' "$HEP_RUN" plan.hepb --warmup 0 "${@:3}" --profile host.json
}

in_one_process() {
  on_host "$@" || return
  expect 0 '' "$EMULATED" --engine cuda plan.hepb --warmup 0 "${@:3}" --profile cuda.json || return
  agree host.json cuda.json ${unlike:+"$unlike"} || fail "$1 $2, one process"
}

in_processes() {
  on_host "$@" || return
  processes 4 plan.hepb --warmup 0 "${@:3}" --profile cuda.json || { fail "$1 $2, a process each: $(cat err.*)"; return; }
  agree host.json cuda.json || fail "$1 $2, a process each"
}

in_one_process training dc=1,gpu=1 -n 2
in_one_process training dc=2,gpu=1 -n 2
in_one_process naive dc=1,gpu=2 -n 2
in_one_process kept dc=2,gpu=1 -n 2
in_one_process again dc=1,gpu=2 -n 2
in_one_process apart dc=2,gpu=2 -n 2
# Of codecs there is no bound: nearer to the same codec on the host than to none.
on_host training dc=2,gpu=1 -n 3 && mv host.json dense.json
unlike=dense.json in_one_process codec dc=2,gpu=1 -n 3
# The same of packed rows, where a rounding apart may be a step apart.
on_host int8 dc=1,gpu=1 -n 2 && mv host.json int8.json
unlike=int8.json in_one_process rows dc=1,gpu=1 -n 2
on_host bf16 dc=1,gpu=1 -n 1 --routing balanced && mv host.json full.json
unlike=full.json in_one_process rows16 dc=1,gpu=1 -n 1 --check --routing balanced
in_one_process bf16 dc=2,gpu=1 -n 2 --check --routing balanced
unset HEP_EXPERT_KERNEL
expect 0 '' "$EMULATED" --engine cuda plan.hepb --warmup 0 -n 1 --profile cuda.json
grep -q 'multiplied by wmma' out && fail "compared, the kernels of experts differ: $(cat out)"
HEP_EMULATION_WRONG_PRODUCTS=1 expect 0 '' "$EMULATED" --engine cuda plan.hepb --warmup 0 -n 1 --profile cuda.json
grep -q '# experts are multiplied by wmma: wgmma and wmma differ' out || fail "no word of a wrong kernel: $(cat out)"
export HEP_EXPERT_KERNEL=wgmma
in_processes training dc=1,gpu=1 -n 2
# Without exchanges, or with as many rows every time, iterations are replayed.
in_processes training dc=2,gpu=2 -n 3
in_processes f16 dc=1,gpu=1 -n 3 --routing balanced

grep '^emulation:' err.* && fail "a replayed graph is not as fast as its steps"

# Padded messages have one size while the gate changes its mind: replayed, and the same to the last bit as if not.
in_one_process padded dc=1,gpu=1 -n 3
grep -q 'ranks of one process wait for each other' cuda.json || fail "one process replays, or no reason says why not"
in_processes padded dc=1,gpu=1 -n 3 && cp cuda.json replayed.json
in_processes padded dc=1,gpu=1 -n 3 --no-graph
expect 0 '' "$HEP_RUN" plan.hepb --warmup 0 -n 1 --json=first.json
python3 - <<'PYTHON' || fail "padded, replayed"
import json
first, host, replayed, other = (json.load(open(name + ".json")) for name in ("first", "host", "replayed", "cuda"))
assert replayed["replays"] and not other["replays"] and other["replay_refusal"] == "--no-graph"
assert replayed["loss"] == other["loss"]
for name in ("exchange_bytes", "padding_bytes", "routing_bytes"):
    for a, b, c in zip(host["traffic"], replayed["traffic"], other["traffic"]):
        assert a[name] == b[name] == c[name], (name, a[name], b[name], c[name])
for once, many in zip(first["traffic"], replayed["traffic"]):
    assert once["padding_bytes"] != many["padding_bytes"], "the gate chose alike in every iteration"
PYTHON
# A rank dies while the others replay: what ends a communicator waits for graphs that hold calls of it.
rm -f losses.csv
VICTIM=1 processes 4 plan.hepb --warmup 0 -n 1000000 --losses losses.csv && fail "a rank died, and the others went on with their graphs"
grep -Eq '^hep-run: .*rank 1, process [0-9]+ on .*is gone' err.0 || fail "no word of the dead rank: $(cat err.*)"
cat err.* | grep '^emulat' && fail "NCCL was used as it must not be"
in_processes naive dc=1,gpu=1 -n 2
grep -q "'exchange = padded' with a 'capacity'" cuda.json || fail "counted exchanges are replayed, or no reason says why not"

# A rank that dies ends all others soon; rank 0 says which it was, once. Of a wrong world, rank 0 says so.
SECONDS=0
rm -f losses.csv
VICTIM=2 processes 4 plan.hepb --warmup 0 -n 1000000 --losses losses.csv && fail "a rank died, and the others continued"
[ $SECONDS -lt 60 ] || fail "it took $SECONDS s to end"
grep -Eq '^hep-run: .*rank 2, process [0-9]+ on .*is gone' err.0 || fail "no word of the dead rank: $(cat err.*)"
cat err.* | grep '^emulat' && fail "NCCL was used as it must not be"
[ "$(cat err.* | grep -c '^hep-run:')" = 1 ] || fail "more than one word: $(cat err.*)"
# A rank whose device makes no progress while its process lives is named, and what it is at.
HEP_EMULATION_PATIENCE=60 STUCK=1 processes 4 plan.hepb -n 1000000 --no-graph --timeout 4 && fail "a device hung, and nobody noticed"
grep -Eq "^hep-run: rank [023]: step [0-9]+, '[a-z_-]+'.*: rank 1[ ,].* did not .*; there, stream '[a-z]+' is (at step|between)" \
  err.0 || fail "who is waited for is not named: $(cat err.*)"
processes 3 plan.hepb -n 1 && fail "three processes ran a plan of four ranks"
grep -q 'the plan has 4 ranks, but 3 processes were started' err.0 || fail "wrong world: $(cat err.*)"
WORLD=5 processes 4 plan.hepb -n 1 --timeout 2 && fail "a process is missing"
grep -q 'rank 4 of 5 did not come to 127.0.0.1' err.0 || fail "missing process: $(cat err.*)"
expect 5 'no launcher says which process this is' "$EMULATED" --engine cuda --communicator nccl plan.hepb
finish
