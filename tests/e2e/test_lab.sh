# Data centres as namespaces: a plan across limited links, bytes that agree, and nothing left behind however it ends.
# builds: fast  seconds: 20
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0
lab=$HEP_SOURCE/tests/lab/lab
build=$(dirname "$(dirname "$HEP_RUN")")

cat >two.hep <<'HEP'
cluster two {
  level dc  { count = 2  bandwidth = 40 Mbit/s  latency = 200 us }
  level gpu { count = 2  bandwidth = 4 Gbit/s   latency = 50 us }
  device    { compute = 4 GFLOP/s  memory = 512 MB  memory_bandwidth = 1 GB/s }
}
model small {
  layers = 1  hidden = 64  heads = 2  vocabulary = 64
  sequence = 64  batch = 8
  dtype = f32
  moe { experts = 4  top_k = 2  inner = 64  activation = gelu }
}
plan { pass = forward  domain = ep }
HEP
expect 0 '' "$HEPC" two.hep -o plan.hepb || finish
"$lab" --build "$build" plan.hepb -- --check --iterations 2 --routing balanced >out 2>err
code=$?
[ "$code" = 77 ] && { grep SKIP out; exit 77; }
grep -q 'built without MPI' err && { echo "SKIP: hep-run has no MPI"; exit 77; }
[ "$code" = 0 ] || fail "lab ended with $code: $(cat out err)"
grep -q '^check: passed' out && grep -q 'in order$' out || fail "no check, or no bytes: $(cat out)"

# A link of its own rate; a way of some length; and the uplinks do limit, each way.
"$lab" --build "$build" --port 1=20mbit --latency 5ms --bytes bytes.json plan.hepb -- --json=run.json \
  --iterations 2 --warmup 0 --routing balanced >out 2>err || fail "ports and latency: $(cat out err)"
grep -q 'dc0 40 Mbit/s, dc1 20 Mbit/s; latency 5 ms' out || fail "not what was asked for: $(cat out)"
python3 - <<'PYTHON' || fail "the limits do not hold"
import json
bytes_of, run = json.load(open("bytes.json"))["data_centres"], json.load(open("run.json"))
for number, rate in (0, 40e6 / 8), (1, 20e6 / 8):
    for way in "sent", "received":
        carried = bytes_of[number][way] / 2  # per iteration
        assert run["iteration_s"]["max"] > 0.8 * carried / rate > 0, (number, way, carried, run["iteration_s"])
PYTHON

# Data that goes another way is noticed.
expect 1 'the uplinks carried' env OMPI_MCA_btl_tcp_if_include=10.78.0.0/24 "$lab" --build "$build" --quiet plan.hepb \
  -- --iterations 1

# A data centre that is cut off; the code of what was run; what does not fit.
expect 5 'dc1 is cut off' "$lab" --build "$build" --cut 1@1MB plan.hepb -- --timeout 1 --iterations 1000
expect 3 '' "$lab" --dcs 2 --ranks 1 --build "$build" --command sh -c 'test "$(lab-enter dc1 hostname)" = dc1 && exit 3'
expect 2 'do not fit' "$lab" --build "$build" --dcs 3 plan.hepb
expect 2 "expected a rate" "$lab" --build "$build" --uplink 5 plan.hepb
expect 2 "expected a rate" "$lab" --build "$build" --uplink 99999999gbit plan.hepb
expect 2 "expected at most 1s" "$lab" --build "$build" --latency 9999s plan.hepb
expect 2 "'0': expected a whole number from 1" "$lab" --dcs 0 --command true
expect 2 "No such file or directory: '/absent/bytes'" "$lab" --build "$build" --bytes /absent/bytes plan.hepb
expect 1 "No such file or directory: 'absent'" "$lab" --dcs 2 --ranks 1 --command absent
expect 0 'bytes are not compared' "$lab" --build "$build" plan.hepb -- --version
expect 1 'left behind: .* sleep 54321' "$lab" --dcs 2 --ranks 1 --command sh -c 'sleep 54321 &'

# Whatever ends the lab ends everything in it.
for signal in KILL TERM; do
  "$lab" --dcs 2 --ranks 1 --command sh -c "echo up >$work/up; lab-enter dc1 sleep 5432.$$" >out 2>err &
  pid=$!
  for _ in $(seq 100); do [ -s up ] && break; sleep 0.05; done
  kill -$signal $pid
  wait $pid 2>/dev/null
  for _ in $(seq 40); do pgrep -f "sleep 5432.$$" >/dev/null || break; sleep 0.05; done
  pgrep -f "sleep 5432.$$" >/dev/null && fail "SIG$signal left a process behind"
  rm -f up
done
finish
