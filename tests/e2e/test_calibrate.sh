# What --calibrate writes is a cluster block that hepc takes, of the plan's levels or of those named.
# builds: fast  seconds: 18
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
use_mpi

cat >model.hep <<'HEP'
model small {
  layers = 2  hidden = 32  heads = 2  vocabulary = 64
  sequence = 16  batch = 2
  dtype = f32
  moe { experts = 12  top_k = 2  inner = 64  activation = gelu }
}
plan { pass = forward }
HEP
cat >guess.hep <<'HEP'
cluster sites {
  level dc  { count = 3  bandwidth = 200 Mbit/s  latency = 2 ms  names = [paris, "new york", rome] }
  device    { compute = 4 GFLOP/s  memory = 512 MB  memory_bandwidth = 1 GB/s }
  port dc["new york"] { bandwidth = 40 Mbit/s }
}
include "model.hep"
HEP
printf 'include "%s"\ninclude "model.hep"\n' measured.hep >calibrated.hep

# Ports by name, whatever their place in the plan.
expect 0 '' "$HEPC" guess.hep -o plan.hepb || finish
# Nothing is faster than what is emulated, on whatever machine; on a busy one some of it may be slower.
for _ in 1 2 3 4 5 6; do
  expect 0 '' "$HEP_RUN" --calibrate measured.hep --emulate-links plan.hepb
  expect 0 '' "$HEPC" --dump=json calibrated.hep
  cp out plan.json
  python3 - <<'PYTHON'
import json, sys
cluster = json.load(open("plan.json"))["cluster"]
rates = {port["name"]: port["bandwidth_bytes_per_s"] * 8 for port in cluster["ports"]}
assert sorted(rates) == ["new york", "paris", "rome"], rates
emulated = {name: 40e6 if name == "new york" else 200e6 for name in rates}
assert all(rates[name] < 1.05 * emulated[name] for name in rates), rates
assert cluster["levels"][0]["name"] == "dc" and cluster["levels"][0]["latency_s"] >= 2e-3, cluster
sys.exit(0 if all(rates[name] > 0.7 * emulated[name] for name in rates) else 2)
PYTHON
  code=$?
  [ "$code" = 2 ] || break
done
[ "$code" = 0 ] || fail "not what was emulated: $(cat measured.hep)"

# Levels without a plan, to standard output.
expect 0 '' "$HEP_RUN" --calibrate - --levels dc=2,gpu=2
cp out measured.hep
expect 0 '' "$HEPC" --check calibrated.hep

# What is measured is shown on a terminal, unless --quiet asks for silence.
if command -v script >/dev/null; then
  script -qec "'$HEP_RUN' --calibrate shown.hep --levels dc=3" /dev/null >shown </dev/null
  for what in "an expert, 1024 rows" memory "encoding and decoding" "latency of level 'dc'" "bandwidth of level 'dc'" \
    "pairs of workers, round 3 of 3" "port 3 of 3"; do
    grep -q "calibrating: $what" shown || fail "does not show '$what': $(cat -v shown)"
  done
  script -qec "'$HEP_RUN' --quiet --calibrate shown.hep --levels dc=2" /dev/null >shown </dev/null
  grep -q calibrating shown && fail "--quiet shows progress"
else
  echo "SKIP: no script(1): progress is not looked at"
fi

# A process that may use fewer processors than there are says so.
if [ "$(nproc --all)" -gt 1 ] && command -v taskset >/dev/null; then
  first=$(taskset -cp $$ | sed 's/.*: //; s/[-,].*//')
  expect 0 "warning: The first process may use 1 of $(nproc --all) processors" \
    taskset -c "$first" "$HEP_RUN" --calibrate pinned.hep --levels dc=2
  grep -q "^# The first process may use 1 of" pinned.hep || fail "the file does not say that the process was pinned"
  expect 0 '' taskset -c "$first" "$HEP_RUN" -n 1 plan.hepb
  grep -q "^# the ranks may use 1 of $(nproc --all) processors (affinity mask)" out || fail "not reported: $(head -6 out)"
  expect 0 '' taskset -c "$first" "$HEP_RUN" -n 1 --json plan.hepb
  python3 -c 'import json, os; report = json.load(open("out")); assert report["processors"] == 1; assert \
    report["processors_online"] == os.cpu_count()' || fail "processors in JSON"
else
  echo "SKIP: one processor, or no taskset"
fi

# Links that are faster than this machine copies, and one that is not.
cat >fast.hep <<'HEP'
cluster fast {
  level dc  { count = 2  bandwidth = 10 Mbit/s  latency = 20 ms }
  level gpu { count = 2  bandwidth = 90 Tbit/s }
}
include "model.hep"
HEP
expect 0 '' "$HEPC" fast.hep -o fast.hepb
expect 0 "warning: this machine cannot emulate the bandwidth of level 'gpu': its ports carry 45 TB/s together" \
  "$HEP_RUN" --emulate-links -n 1 fast.hepb
grep -q "bandwidth of level 'dc'" err && fail "a slow link cannot be emulated: $(cat err)"
expect 0 '' "$HEP_RUN" -n 1 fast.hepb
grep -q emulate err && fail "warns of links that nobody emulates"

# What does not go.
expect 2 'expected NAME=COUNT' "$HEP_RUN" --calibrate - --levels dc
expect 2 'counts from 2' "$HEP_RUN" --calibrate - --levels dc=1
expect 2 'give one of them' "$HEP_RUN" --calibrate - --levels dc=2 plan.hepb
expect 2 'no bandwidths to emulate' "$HEP_RUN" --calibrate - --levels dc=2 --emulate-links
expect 2 'levels goes with --calibrate' "$HEP_RUN" --levels dc=2
expect 2 'runs no plan' "$HEP_RUN" --calibrate - --check plan.hepb
expect 2 'no plan' "$HEP_RUN" --calibrate -
expect 6 'absent/out.hep' "$HEP_RUN" --calibrate absent/out.hep plan.hepb

# Over processes; as many as the levels make.
if command -v mpirun >/dev/null && "$HEP_RUN" --help | grep -q mpi; then
  export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0
  "$HEP_RUN" --communicator mpi --calibrate - --levels dc=2 >/dev/null 2>err
  if ! grep -q 'built without MPI' err; then
    grep -q 'levels make 2 ranks, but 1 process was started' err || fail "one process: $(cat err)"
    expect 0 '' timeout 100 mpirun --oversubscribe -n 2 "$HEP_RUN" --calibrate measured.hep --levels dc=2
    expect 0 '' "$HEPC" --check calibrated.hep
    # Not as two programs of one launch: there are versions of mpirun that crash on it.
    # shellcheck disable=SC2016 # for the ranks' shells
    by_rank=(timeout 100 mpirun --oversubscribe -n 2 sh -c '[ "$OMPI_COMM_WORLD_RANK" = 0 ] && exec "$0" $1; exec "$0" $2')
    expect 5 'rank 1: started with another --levels than rank 0' "${by_rank[@]}" "$HEP_RUN" \
      '--calibrate - --levels dc=2' '--calibrate - --levels dc=3'
    expect 5 'rank 1: started with another --calibrate than rank 0' "${by_rank[@]}" "$HEP_RUN" \
      plan.hepb '--calibrate - plan.hepb'
    grep -q '2 ranks, communicator mpi' measured.hep || fail "not over MPI: $(cat measured.hep)"
  fi
fi
finish
