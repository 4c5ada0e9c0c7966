# Plans run by processes over MPI: checked against the reference, and bit for bit the threads' losses and bytes.
# builds: fast  seconds: 20
. "$(dirname "$0")/lib.sh"
command -v mpirun >/dev/null || { echo "SKIP: no mpirun"; exit 77; }
cd "$work" || exit 1
use_mpi
# MPI keeps what it allocated until the process ends; the threads' runs look for leaks.
export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0
launch() { # ranks, arguments of hep-run...
  local ranks=$1
  shift
  timeout 120 mpirun --oversubscribe -n "$ranks" "$HEP_RUN" "$@"
}

cat >eight.hep <<'HEP'
cluster eight {
  level dc   { count = 2  bandwidth = 200 Mbit/s  latency = 2 ms }
  level node { count = 2  bandwidth = 1 Gbit/s    latency = 50 us }
  level gpu  { count = 2  bandwidth = 4 Gbit/s    latency = 10 us }
  device     { compute = 4 GFLOP/s  memory = 512 MB  memory_bandwidth = 1 GB/s }
}
model small {
  layers = 2  hidden = 32  heads = 2  vocabulary = 64
  sequence = 16  batch = 2
  dtype = f32
  moe { experts = 16  top_k = 2  inner = 64  activation = gelu }
}
plan { pass = forward }
HEP
expect 0 '' "$HEPC" eight.hep -o plan.hepb || finish
"$HEP_RUN" --communicator mpi plan.hepb >/dev/null 2>err
grep -q 'built without MPI' err && { echo "SKIP: hep-run has no MPI"; exit 77; }

# The communicator by itself.
timeout 60 mpirun --oversubscribe -n 4 "$(dirname "$HEP_RUN")/mpi_comm" >out 2>err || fail "mpi_comm: $(cat err)"

# Every third plan of the matrix of strategies.
timeout 120 mpirun --oversubscribe -n 8 "$(dirname "$HEP_RUN")/mpi_matrix" 3 >out 2>err || fail "mpi_matrix: $(cat err)"
[ "$(sed -n 's/ plans$//p' out)" -ge 100 ] || fail "mpi_matrix ran too few plans: $(cat out)"

# same NAME RANKS: plan.hepb gives the same under both communicators, but for times.
same() {
  expect 0 '' "$HEP_RUN" plan.hepb --check --iterations 2 --json=threads.json || return
  expect 0 '' launch "$2" plan.hepb --check --iterations 2 --json=mpi.json || return
  python3 - "$1" <<'PYTHON' || fail "$1"
import json
threads, mpi = json.load(open("threads.json")), json.load(open("mpi.json"))
assert threads["communicator"] == "threads" and mpi["communicator"] == "mpi"
for key in ("ranks", "loss", "traffic", "check"):
    assert threads[key] == mpi[key], (key, threads[key], mpi[key])
assert mpi["check"]["pass"] is True and len(mpi["loss"]) == 2
PYTHON
}
for dispatch in naive dedup; do
  for domain in dc=1,node=1,gpu=1 dc=2,node=1,gpu=1 dc=1,node=2,gpu=2 dc=2,node=2,gpu=2; do
    expect 0 '' "$HEPC" --domain $domain --dispatch $dispatch eight.hep -o plan.hepb && same "eight, $domain, $dispatch" 8
  done
done
expect 0 '' "$HEPC" "$HEP_SOURCE/samples/three_level.hep" -o plan.hepb && same three_level 16

# Processes are launched in the order of the input, ranks stand where the plan places their workers.
cat >placed.hep <<'HEP'
cluster placed {
  level dc  { count = 4  bandwidth = 200 Mbit/s  latency = 2 ms  names = [paris, oslo, rome, bonn] }
  level gpu { count = 2  bandwidth = 4 Gbit/s    latency = 10 us }
  device    { compute = 4 GFLOP/s  memory = 512 MB  memory_bandwidth = 1 GB/s }
  link paris, oslo { bandwidth = 5 Mbit/s }
  link rome, bonn { bandwidth = 5 Mbit/s }
}
model small {
  layers = 2  hidden = 32  heads = 2  vocabulary = 64
  sequence = 16  batch = 2
  dtype = f32
  moe { experts = 16  top_k = 2  inner = 64  activation = gelu }
}
plan { pass = forward  domain = { dc = 2 } }
HEP
expect 0 '' "$HEPC" placed.hep -o plan.hepb
grep -Eq 'paris [+] (rome|bonn) [|] ' out || fail "oslo is not where paris avoids it: $(cat out)"
same placed 8

# Started by srun, but not joined: reported once, by the first.
for rank in 0 1; do
  expect 5 '' env -u OMPI_COMM_WORLD_SIZE SLURM_STEP_NUM_TASKS=8 SLURM_PROCID=$rank "$HEP_RUN" plan.hepb
  [ "$(grep -c 'srun started 8 processes, but MPI has not joined them' "$work/err")" = $((1 - rank)) ] ||
    fail "srun, rank $rank: $(cat "$work/err")"
done
# A shell inside an allocation is one task: no launcher.
expect 0 '' env -u OMPI_COMM_WORLD_SIZE SLURM_STEP_NUM_TASKS=1 SLURM_PROCID=0 "$HEP_RUN" plan.hepb --iterations 1
grep -q 'communicator threads' "$work/out" || fail "one task of srun: $(cat "$work/out")"

# The report is printed once, and the plan may come from standard input.
expect 0 '' "$HEPC" --domain dc=1,node=1,gpu=2 eight.hep -o plan.hepb
launch 8 - --iterations 1 <plan.hepb >out 2>err || fail "plan from standard input: $(cat err)"
[ "$(grep -c '^loss:' out)" = 1 ] || fail "not one report but: $(cat out)"

# once CODE PATTERN RANKS ARGUMENTS...: fails with the code and says why exactly once.
once() {
  local code=$1 pattern=$2
  shift 2
  expect "$code" "$pattern" launch "$@" || return
  [ "$(grep -c '^hep-run:' "$work/err")" = 1 ] || fail "'$*' did not say it once: $(cat "$work/err")"
}
once 5 'the plan has 8 ranks, but 3 processes were started' 3 plan.hepb
once 2 'emulated between threads' 8 plan.hepb --emulate-links
once 6 'No such file' 2 absent.hepb
once 3 'a description, not a plan' 2 eight.hep
expect 5 'the plan has 8 ranks, but 1 process was started' "$HEP_RUN" --communicator mpi plan.hepb
expect 2 "unknown communicator 'pigeons'" "$HEP_RUN" --communicator pigeons plan.hepb

# Every process on its own when asked to; without a launcher nothing changes.
launch 2 --communicator threads plan.hepb --iterations 1 >out 2>err || fail "threads under mpirun: $(cat err)"
[ "$(grep -c 'communicator threads' out)" = 2 ] || fail "threads under mpirun: $(cat out)"
env -u OMPI_COMM_WORLD_SIZE "$HEP_RUN" plan.hepb --iterations 1 >out 2>err || fail "no launcher: $(cat err)"
grep -q 'communicator threads' out || fail "no launcher: $(cat out)"

finish
