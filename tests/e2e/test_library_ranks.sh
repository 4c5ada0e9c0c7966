# libhep with ranks that are processes, over MPI and over TCP: layers on 4 of them, computed as in one place; one that
# does not come, or dies, is found out in time.
# builds: fast  seconds: 10
. "$(dirname "$0")/lib.sh"
program=$(dirname "$HEPC")/library_ranks
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
sed 's/plan { /&capacity = 1  exchange = padded  /' moe.hep >padded.hep
over_mpi() { timeout 100 mpirun --oversubscribe -n 4 "$program" mpi "$@" >ranks 2>err; }
over_tcp() { as_torchrun tcp "$@"; }
over_known() { as_torchrun tcp_at "$@"; }
as_torchrun() {
  local rank port=$((20000 + $$ % 10000)) way=$1
  shift
  for rank in 0 1 2 3; do
    RANK=$rank LOCAL_RANK=$rank WORLD_SIZE=4 MASTER_ADDR=127.0.0.1 MASTER_PORT=$port \
      timeout 100 "$program" "$way" "$@" >"rank.$rank" 2>>err &
  done
  wait
  cat rank.? >ranks
}
ways=(over_tcp over_known)
if ldd "$program" | grep -q libmpi && command -v mpirun >/dev/null; then ways+=(over_mpi); fi
for way in "${ways[@]}"; do
  for domain in "dc=1,gpu=1" "dc=2,gpu=1" "dc=2,gpu=2"; do
    expect 0 '' "$HEPC" moe.hep --domain "$domain" -o plan.hepb
    "$way" plan.hepb 60
    [ "$(grep -c ': right$' ranks)" = 4 ] || fail "$way, $domain: $(cat ranks err)"
  done
  expect 0 '' "$HEPC" padded.hep --domain "dc=1,gpu=2" -o padded.hepb
  "$way" padded.hepb 60
  [ "$(grep -c ': right$' ranks)" = 4 ] || fail "$way, padded: $(cat ranks err)"
  "$way" plan.hepb 2 absent
  [ "$(grep -c 'did not come for 2 s$' ranks)" = 3 ] || fail "$way, a rank that does not come: $(cat ranks err)"
done
# A process that dies is missed before its time is up.
SECONDS=0
over_tcp plan.hepb 60 dies
[ "$SECONDS" -lt 30 ] || fail "a death was noticed after $SECONDS s"
[ "$(grep -c ': create: ' ranks)" = 3 ] || fail "a rank that dies: $(cat ranks err)"
finish
