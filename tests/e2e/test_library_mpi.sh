# libhep over MPI: layers on 4 processes, computed as in one place; a rank that does not come is found out in time.
# builds: fast  seconds: 10
. "$(dirname "$0")/lib.sh"
program=$(dirname "$HEPC")/library_mpi
[ -x "$program" ] && command -v mpirun >/dev/null || { echo "SKIP: no MPI"; exit 77; }
use_mpi
cd "$work" || exit 1
cat >moe.hep <<'HEP'
cluster c {
  level dc  { count = 2  bandwidth = 1 Gbit/s   latency = 1 ms }
  level gpu { count = 2  bandwidth = 10 Gbit/s  latency = 10 us }
  device    { compute = 1 TFLOP/s  memory = 8 GB  memory_bandwidth = 100 GB/s }
}
model m {
  layers = 2  hidden = 16  heads = 2  vocabulary = 64  sequence = 16  batch = 1  dtype = f32
  moe { experts = 8  top_k = 2  inner = 8  activation = gelu }
}
plan { pass = training }
HEP
run() { timeout 100 mpirun --oversubscribe -n 4 "$program" "$@"; }
for domain in "dc=1,gpu=1" "dc=2,gpu=1" "dc=2,gpu=2"; do
  expect 0 '' "$HEPC" moe.hep --domain "$domain" -o plan.hepb
  expect 0 '' run plan.hepb 60
  grep -qx '4 of 4 ranks are right' out || fail "$domain: $(cat out err)"
done
expect 0 'rank 0: .* did not come for 2 s' run plan.hepb 2 absent
finish
