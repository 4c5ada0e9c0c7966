# shellcheck shell=bash disable=SC2154 # work is lib.sh's
# Sourced by tests of adapters, after lib.sh: runs python_adapters.py on the real package, or skips the test.
run_adapter() { # name
  local python
  cd "$work" || exit 1
  python=$("$HEP_SOURCE/scripts/testing/torch_environment.sh" 2>why) || { echo "SKIP: $(cat why)"; exit 77; }
  export HEP_LIBRARY PYTHONPATH=$HEP_SOURCE/python${PYTHONPATH:+:$PYTHONPATH} PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1
  HEP_LIBRARY=$(dirname "$(dirname "$HEPC")")/lib/libhep.so
  cat >adapter.hep <<'HEP'
cluster two {
  level site { count = 2  bandwidth = 100 Mbit/s  latency = 1 ms }
  level gpu  { count = 2  bandwidth = 800 Mbit/s  latency = 100 us }
  device     { compute = 8 GFLOP/s  memory = 512 MB  memory_bandwidth = 2 GB/s }
}
model one {
  layers = 1  hidden = 32  heads = 4  vocabulary = 96  sequence = 8  batch = 1  dtype = f32
  moe { experts = 8  top_k = 2  inner = 40  activation = swiglu }
}
plan { pass = training }
HEP
  expect 0 '' "$HEPC" adapter.hep --domain ep -o ep.hepb
  expect 0 '' "$HEPC" adapter.hep --domain gather -o gather.hepb
  timeout 300 "$python" -W ignore "$HEP_SOURCE/tests/e2e/python_adapters.py" "$work" "$1" >log 2>&1
  case $? in
  0) ;;
  77) echo "SKIP: no $1 that can be imported: $(tail -1 log)"; exit 77 ;;
  *) fail "hep.adapters.$1: $(tail -40 log)" ;;
  esac
  grep -q "^$1: all good" log || fail "hep.adapters.$1 did not end: $(tail -5 log)"
}
