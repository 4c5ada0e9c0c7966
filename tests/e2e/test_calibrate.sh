# What --calibrate writes is a cluster block that hepc takes, of the plan's levels or of those named.
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1

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
expect 0 '' "$HEP_RUN" --calibrate measured.hep --emulate-links plan.hepb
expect 0 '' "$HEPC" --dump=json calibrated.hep
cp out plan.json
python3 - <<'PYTHON' || fail "not what was emulated: $(cat measured.hep)"
import json
cluster = json.load(open("plan.json"))["cluster"]
rates = {port["name"]: port["bandwidth_bytes_per_s"] * 8 for port in cluster["ports"]}
assert sorted(rates) == ["new york", "paris", "rome"], rates
for name, rate in rates.items():
    emulated = 40e6 if name == "new york" else 200e6
    assert 0.7 * emulated < rate < 1.05 * emulated, (name, rate)
assert cluster["levels"][0]["name"] == "dc" and cluster["levels"][0]["latency_s"] >= 2e-3, cluster
PYTHON

# Levels without a plan, to standard output.
expect 0 '' "$HEP_RUN" --calibrate - --levels dc=2,gpu=2
cp out measured.hep
expect 0 '' "$HEPC" --check calibrated.hep

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
    expect 5 'rank 1: started with another --levels than rank 0' timeout 100 mpirun --oversubscribe \
      -n 1 "$HEP_RUN" --calibrate - --levels dc=2 : -n 1 "$HEP_RUN" --calibrate - --levels dc=3
    expect 5 'rank 1: started with another --calibrate than rank 0' timeout 100 mpirun --oversubscribe \
      -n 1 "$HEP_RUN" plan.hepb : -n 1 "$HEP_RUN" --calibrate - plan.hepb
    grep -q '2 ranks, communicator mpi' measured.hep || fail "not over MPI: $(cat measured.hep)"
  fi
fi
finish
