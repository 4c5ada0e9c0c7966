# Models of thousands of layers are compiled within seconds and little memory: what takes time in proportion to the
# square of the layers, or searches for a better plan without end, exceeds the limits, which leave a busy machine room.
# builds: fast  seconds: 30
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1

model() { # layers, pass, memory, more of the plan, batch
  cat <<HEP
cluster c {
  level node { count = 2  bandwidth = 100 Gbit/s  latency = 5 us }
  level gpu  { count = 4  bandwidth = 900 GB/s  latency = 1 us }
  device     { compute = 300 TFLOP/s  memory = $3  memory_bandwidth = 2 TB/s }
}
model m {
  layers = $1  hidden = 64  heads = 4  vocabulary = 256  sequence = 64  batch = ${5:-2}  dtype = bf16
  moe { experts = 16  top_k = 2  inner = 64  activation = swiglu }
}
plan { pass = $2  ${4:-} }
HEP
}
limited() { # seconds of a processor, hepc's arguments; within 1 GB of addresses
  bash -c 'ulimit -t "$1" && ulimit -v 1000000 && shift && exec "$@"' limited "$1" "$HEPC" "${@:2}"
}

model 10000 forward '80 GB' >forward.hep
limited 30 forward.hep -o forward.hepb >out 2>err || fail "10,000 layers forward: code $?, $(cat err)"
limited 10 --check forward.hepb >out 2>err || fail "checking 10,000 layers: code $?, $(cat err)"
grep -q '^forward.hepb: good' out || fail "10,000 layers: $(cat out)"

# With one per cent less memory than the best plan takes.
model 10000 training '8.89 GB' >binding.hep
limited 30 binding.hep -o binding.hepb >out 2>err || fail "10,000 layers that memory binds: code $?, $(cat err)"

# Several micro-batches that fit in laps of few alone: why larger laps do not fit is not asked of each.
model 10000 training '8.9 GB' 'micro_batches = 16' 16 >laps.hep
limited 30 laps.hep -o laps.hepb >out 2>err || fail "10,000 layers in laps: code $?, $(cat err)"

# A time limit ends the search and what follows it; too little memory is said at once.
model 600 training '0.64 GB' >binding.hep
limited 10 --dump=json --time-limit 0.01 binding.hep >out 2>err || fail "a time limit: code $?, $(cat err)"
grep -q 'time limit' out || fail "the time limit is not said"
model 10000 training '1 GB' >large.hep
expect 4 'no plan fits' limited 20 large.hep -o large.hepb
[ ! -e large.hepb ] || fail "a plan that does not fit was written"

finish
