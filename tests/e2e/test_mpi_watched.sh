# Processes over MPI that are slow, told to end or stopped: they are named, and the others end in time.
# builds: fast  seconds: 10  alone
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/mpi_lib.sh"
command -v mpirun >/dev/null || { echo "SKIP: no mpirun"; exit 77; }
cd "$work" || exit 1
use_mpi
# MPI keeps what it allocated until the process ends; the threads' runs look for leaks.
export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0
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
expect 0 '' "$HEPC" --domain dc=1,node=1,gpu=2 eight.hep -o plan.hepb || finish
"$HEP_RUN" --communicator mpi plan.hepb >/dev/null 2>err
grep -q 'built without MPI' err && { echo "SKIP: hep-run has no MPI"; exit 77; }

# A rank that is told to end, or does not move any more: one message, nobody left behind.
ends() { # SIGNAL TIMEOUT PATTERN
  mpirun --oversubscribe -n 8 "$HEP_RUN" plan.hepb --timeout "$2" --iterations 1000000 >out 2>err &
  local launcher=$! ranks
  await_step "$launcher" 3 compute err
  ranks=$(ranks_of "$launcher" | cut -d' ' -f1)
  [ "$(echo "$ranks" | wc -w)" = 8 ] || fail "mpirun started these ranks: $ranks"
  kill "-$1" "$(pid_of "$launcher" 3)"
  SECONDS=0
  wait "$launcher" && fail "$1: the run succeeded"
  [ $SECONDS -le 25 ] || fail "$1: it took $SECONDS s to end"
  # Open MPI 5 may begin it in the line of another process, which it cuts short.
  if [ "$(grep -ao 'hep-run: ' err | wc -l)" != 1 ] || ! grep -aqE "$3" err; then fail "$1: $(cat err)"; fi
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    ps -o pid= -p "$(echo "$ranks" | paste -sd,)" >/dev/null || return
    sleep 0.5
  done
  fail "$1: ranks are left behind"
}
ends TERM 60 'interrupted by SIGTERM after iteration'
ends STOP 6 "^hep-run: rank [0-9]: .*rank [0-9] (did not .*, and|gave no sign of life) for 6 s.*that process is stopped"

# A rank that its processor serves one fifth of the time is named.
sed 's/batch = 2/batch = 64/; s/inner = 64/inner = 512/' eight.hep >busy.hep
expect 0 '' "$HEPC" --domain ep busy.hep -o plan.hepb
mpirun --oversubscribe -n 8 "$HEP_RUN" plan.hepb --iterations 20 --json=run.json >out 2>err &
launcher=$!
slow=$(pid_of $launcher 3)
while kill -STOP "$slow" 2>/dev/null; do
  sleep 0.04
  kill -CONT "$slow" 2>/dev/null
  sleep 0.01
done
wait $launcher || fail "a rank stopped now and then: $(cat err)"
grep -q '^slow rank: 3: ' out || fail "rank 3 is not named: $(sed -n '/^rank /,$p' out)"
python3 -c '
import json
run = json.load(open("run.json"))
assert run["slow_rank"] == 3 and len(run["rank_times"]) == 8, run["slow_rank"]
' || fail "slow_rank of --json"
finish
