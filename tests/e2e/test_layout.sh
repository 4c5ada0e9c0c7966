# hepc --emit=layout: it follows docs/layout.schema.json, and says what follows from domain sizes: workers in the input's
# order and in another one, layers that differ, experts in pieces, replicas.
# builds: dev  seconds: 5
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
samples=$HEP_SOURCE/samples

check() { # name, hepc's arguments...
  local name=$1
  shift
  expect 0 '' "$HEPC" "$@" -o "$name.hepb" && expect 0 '' "$HEPC" --emit=layout "$name.hepb" -o "$name.layout" &&
    expect 0 '' "$HEPC" --emit=json "$name.hepb" -o "$name.json" || return
  python3 "$HEP_SOURCE/tests/e2e/layout.py" "$HEP_SOURCE/docs/layout.schema.json" "$name.layout" "$name.json" || fail "$name"
}
check laptop --domain "site=1,gpu=2" "$samples/laptop_training.hep"
check sites "$samples/six_sites.hep"
check unlike --domain "0:site=2,gpu=1; 1-2:site=1,gpu=4" "$samples/laptop_training.hep"
sed 's/experts = 8/experts = 4/' "$samples/laptop_training.hep" >pieces.hep
check pieces --domain "site=1,gpu=2" pieces.hep
# A forward pass, of fewer experts than ranks: every site has all of them from the start.
cat >replicas.hep <<'HEP'
cluster two { level site { count = 2  bandwidth = 1 Gbit/s  latency = 1 ms }
  level gpu { count = 4  bandwidth = 8 Gbit/s  latency = 10 us }
  device { compute = 8 GFLOP/s  memory = 512 MB  memory_bandwidth = 2 GB/s } }
model tiny { layers = 1  hidden = 32  heads = 2  vocabulary = 64  sequence = 16  batch = 1  dtype = f32
  moe { experts = 4  top_k = 2  inner = 32  activation = gelu } }
plan { pass = forward }
HEP
check replicas replicas.hep
grep -q '"rank_order":.*\[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12' sites.layout && fail "sites are in the order of the input: $(head -c 600 sites.layout)"
grep -q '"whole_experts":.*false' pieces.layout || fail "four experts of eight ranks are whole"
grep -q '"replica_levels":.*1' replicas.layout || fail "the plan has no replicas"
grep -q '"owners":.*\[\[0, 4\]' replicas.layout || fail "replicas have no owner each"
# A schema that cannot fail would find nothing: a member that it does not know, a type that it forbids.
for broken in 's/"ranks":/"rank":/' 's/"version":.*1/"version": 2/' 's/"regather":.*false/"regather": 0/'; do
  sed "$broken" laptop.layout >broken.layout
  python3 "$HEP_SOURCE/tests/e2e/layout.py" "$HEP_SOURCE/docs/layout.schema.json" broken.layout laptop.json 2>err && fail "passes: $broken"
done
finish
