# Traces of real runs: every step of every chosen rank, in the order of its streams and after what it
# waited for; beside the simulated run in one file; and what is refused before a run starts.
# builds: dev  seconds: 7
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
samples=$HEP_SOURCE/samples

cat >check.py <<'PYTHON'
import json, re, subprocess, sys

path, processes = sys.argv[1], set(map(int, sys.argv[2].split(",")))
events = json.load(open(path))["traceEvents"]
after, names = {}, {}
for line in open("plan.ir"):
    found = re.match(r"step s(\d+) +(\w+)", line)
    if found:
        names[int(found[1])] = found[2]
        waits = re.search(r" after((?: s\d+)+)", line)
        after[int(found[1])] = [int(awaited[1:]) for awaited in waits[1].split()] if waits else []
assert any(after.values())
runs = {}
for event in events:
    if event["ph"] == "X":
        args = event["args"]
        assert event["name"] == names[args["step"]] + (" " + args["level"] if "level" in args else ""), event
        assert event["args"]["step"] not in runs.setdefault(event["pid"], {}), event
        runs[event["pid"]][event["args"]["step"]] = event
assert set(runs) == processes, (set(runs), processes)
for run in runs.values():
    assert set(run) == set(names)
    last = {}
    for step in sorted(run):
        event = run[step]
        assert event["dur"] >= 0 and 0 <= event["ts"] < 60e6, event
        earlier = [run[other] for other in after[step]] + [last[tid] for tid in last if tid == event["tid"]]
        for other in earlier:
            assert event["ts"] >= other["ts"] + other["dur"] - 2e-3, (other, event)
        last[event["tid"]] = event
starts = {event["id"]: event for event in events if event["ph"] == "s"}
ends = [event for event in events if event["ph"] == "f"]
assert len(starts) == len(ends) == len({event["id"] for event in ends})
for end in ends:
    start = starts[end["id"]]
    assert start["pid"] == end["pid"] and start["tid"] != end["tid"] and start["ts"] <= end["ts"]
titles = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
assert titles == {p: "predicted" if p == 1 else "rank %d" % (p - 1000) for p in processes}, titles
PYTHON

expect 0 '' "$HEPC" "$samples/laptop.hep" -o plan.hepb
expect 0 '' "$HEPC" --dump=ir plan.hepb -o plan.ir
expect 0 '' "$HEP_RUN" --iterations 2 --trace run.json --emulate-links plan.hepb
python3 check.py run.json "$(seq -s, 1000 1015)" || fail "the trace of a run"
grep -q 'iteration' out || fail "a trace beside the table leaves no table"
expect 0 '' "$HEPC" --emit=trace --merge run.json -o both.json plan.hepb
python3 check.py both.json "1,$(seq -s, 1000 1015)" || fail "the merged trace"
expect 0 '' "$HEP_RUN" --iterations 1 --trace=- --trace-ranks 0,3-4,15 plan.hepb
python3 check.py out 1000,1003,1004,1015 || fail "the trace of some ranks"

cat >four.hep <<'HEP'
cluster four {
  level dc  { count = 2  bandwidth = 1 Gbit/s  latency = 1 ms }
  level gpu { count = 2  bandwidth = 4 Gbit/s  latency = 10 us }
  device    { compute = 4 GFLOP/s  memory = 512 MB  memory_bandwidth = 1 GB/s }
}
model small {
  layers = 1  hidden = 32  heads = 2  vocabulary = 64  sequence = 16  batch = 1  dtype = f32
  moe { experts = 4  top_k = 2  inner = 64  activation = gelu }
}
plan { pass = forward }
HEP
cp plan.hepb laptop.hepb
expect 0 '' "$HEPC" four.hep -o plan.hepb
expect 0 '' "$HEPC" --dump=ir plan.hepb -o plan.ir
"$HEP_RUN" --communicator mpi plan.hepb >/dev/null 2>err
if command -v mpirun >/dev/null && ! grep -q 'built without MPI' err; then
  use_mpi
  export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0 # MPI keeps what it allocated
  expect 0 '' timeout 60 mpirun --oversubscribe -n 4 "$HEP_RUN" -n 1 --trace mpi.json --trace-ranks 1,2-3 plan.hepb &&
    { python3 check.py mpi.json 1001,1002,1003 || fail "the trace of processes"; }
else
  echo "no MPI: the trace of processes is not checked"
fi
mv laptop.hepb plan.hepb

expect 2 "trace-ranks '0-16': the plan has no such rank; the plan has 16" \
  "$HEP_RUN" --trace t --trace-ranks 0-16 plan.hepb
expect 2 "expected ranks and ranges" "$HEP_RUN" --trace t --trace-ranks 1,,2 plan.hepb
expect 2 "ranks ascend, each once" "$HEP_RUN" --trace t --trace-ranks 3,1-4 plan.hepb
expect 2 "give that, too" "$HEP_RUN" --trace-ranks 0 plan.hepb
expect 2 "only one of --json, --trace and --profile can go to standard output" "$HEP_RUN" --json --trace - plan.hepb
expect 2 "needs --emit=trace" "$HEPC" --emit=html --merge run.json plan.hepb
sed 's/"name":"gate"/"name":"residual"/' run.json >foreign.json
expect 3 "foreign.json: the trace of another plan" "$HEPC" --emit=trace --merge foreign.json plan.hepb
expect 3 "run.json: the trace of another plan" "$HEPC" --emit=trace --merge run.json "$samples/three_level.hep"
expect 3 "both.json: the trace of a simulated run" "$HEPC" --emit=trace --merge both.json plan.hepb
expect 3 "plan.ir: not JSON" "$HEPC" --emit=trace --merge plan.ir plan.hepb
expect 6 "none.json: No such file" "$HEPC" --emit=trace --merge none.json plan.hepb
# Outputs that cannot be written are found before anything runs.
expect 6 "missing/run.json: No such file" timeout 20 "$HEP_RUN" -n 1000000 --json=missing/run.json plan.hepb
expect 6 "missing/t: No such file" timeout 20 "$HEP_RUN" -n 1000000 --trace missing/t plan.hepb
expect 6 "$work: Is a directory" timeout 20 "$HEP_RUN" -n 1000000 --trace "$work" plan.hepb
[ ! -e t ] || fail "a refused run left a file"
finish
