# Sweeps: tables, CSV and JSON over lists, steps and logarithmic ranges; what does not fit; wrong names and values.
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
sample=$HEP_SOURCE/samples/two_dc.hep
expect 0 '' "$HEPC" --sweep dc.bandwidth=1:100:log3 --sweep batch=4,8 "$sample"
[ -s err ] && fail "progress where nobody looks: $(cat err)"
grep -q '^100  *8  *dc=' "$work/out" || fail "the last row: $(tail -1 "$work/out")"
expect 0 '' "$HEPC" --sweep dc.bandwidth=1:100:log3 "$sample" -o sweep.csv
expect 0 '' "$HEPC" --sweep dc.bandwidth=1:100:log3 "$sample" -o sweep.json
for bandwidth in 1 10 100; do # each row is what one compilation says
  sed "s|bandwidth = 10 Gbit/s |bandwidth = $bandwidth Gbit/s |" "$sample" >one.hep
  expect 0 '' "$HEPC" --dump=json one.hep -o one.$bandwidth.json
done
python3 - <<'PYTHON' || fail "rows against single compilations"
import csv, json
rows = list(csv.DictReader(open("sweep.csv")))
sweep = json.load(open("sweep.json"))
assert sweep["axes"] == [{"name": "dc.bandwidth", "unit": "Gbit/s"}] and sweep["points"] == len(rows) == 3
for row, record, bandwidth in zip(rows, sweep["rows"], (1, 10, 100)):
    plan = json.load(open("one.%d.json" % bandwidth))
    assert abs(float(row["dc.bandwidth [Gbit/s]"]) - bandwidth) < 1e-9 * bandwidth == bandwidth * 1e-9
    expected = plan["solution"]["iteration_s"]
    for got in (float(row["iteration_s"]), record["iteration_s"]):
        assert abs(got / expected - 1) < 1e-6, (got, expected)
    named = {name: plan["baselines"][name]["iteration_s"] / expected for name in ("ep", "ep_dedup", "gather")
             if plan["baselines"][name]["fits"]}
    assert record["best_baseline"] == row["best_baseline"] == plan["solution"]["best_baseline"] == min(named, key=named.get)
    for got in (record["over_best"], float(row["over_best"]), plan["solution"]["over_best_baseline"]):
        assert abs(got - min(named.values())) < 1e-5, (got, named)
    assert abs(record["over_ep"] - plan["baselines"]["ep"]["iteration_s"] / expected) < 1e-6
PYTHON
expect 0 '' "$HEPC" --sweep sequences=2:6:2 "$sample" # a let of the file
[ "$(grep -c 'dc=' "$work/out")" = 3 ] || fail "three values of a let: $(cat "$work/out")"
expect 0 'divided evenly' "$HEPC" --sweep gpu.count=2,3,8 "$sample"
grep -q '^3  *not valid' "$work/out" || fail "a count that does not divide"
expect 0 '' "$HEPC" --sweep memory=1,80 "$sample"
grep -q '^1  *does not fit' "$work/out" || fail "too little memory"
expect 0 '' "$HEPC" --sweep "dc.latency=1 us:1 ms:log2" "$sample"
grep -q '^0.001 ' "$work/out" || fail "units of a range"
# How far it is, is for a terminal.
python3 - "$HEPC" "$sample" <<'PYTHON' || fail "no progress on a terminal"
import os, pty, subprocess, sys
ours, theirs = pty.openpty()
subprocess.run([sys.argv[1], "--sweep", "batch=4,8", sys.argv[2]], stderr=theirs, stdout=subprocess.DEVNULL, check=True)
os.close(theirs)
shown = os.read(ours, 65536).decode()
assert "\rhepc: point 1 of 2" in shown and "point 2 of 2" in shown, shown
PYTHON
expect 2 'written as .csv, .json or .svg' "$HEPC" --sweep batch=1,2 -o sweep.hepb "$sample"
[ ! -e sweep.hepb ] || fail "a sweep in a form that is not its own"
expect 2 "did you mean 'batch'" "$HEPC" --sweep bach=1 "$sample"
expect 2 'takes no numbers' "$HEPC" --sweep dtype=1 "$sample"
for values in 2:1:1 1: a 1,,2 1:2:log1 1:2 ''; do
  expect 2 'not understood' "$HEPC" --sweep "batch=$values" "$sample"
done
expect 2 "expected a name" "$HEPC" --sweep batch "$sample"
expect 3 'none of these values' "$HEPC" --sweep experts=31,33 "$sample"
# The chart: a point for every row with a plan, a line for every value of the first axis.
expect 0 '' "$HEPC" --sweep memory=1,40,80 --sweep dc.bandwidth=1:1000:log4 -o "$work/chart.svg" "$sample"
python3 - "$work/chart.svg" <<'PYTHON' || fail "the chart"
import sys, xml.etree.ElementTree as tree
root = tree.parse(sys.argv[1]).getroot()
svg = "{http://www.w3.org/2000/svg}"
assert len(list(root.iter(svg + "circle"))) == 8, "points"
names = [text.text for text in root.iter(svg + "text")]
assert "memory=40 GB" in names and "memory=80 GB" in names and "memory=1 GB" not in names, names
assert "dc.bandwidth, Gbit/s" in names and {"1", "10", "100", "1000"} <= set(names), names
_, _, width, height = map(float, root.get("viewBox").split())
for circle in root.iter(svg + "circle"):
    assert 0 < float(circle.get("cx")) < width and 0 < float(circle.get("cy")) < height
PYTHON
# Units: which one is wanted where it is not clear, and a unit that is given once holds for all.
cat >small.hep <<'HEP'
let wan = 10 Gbit/s
let far = 2 * wan
let unused = 3
let how = dedup
cluster c { level dc { count = 2 bandwidth = wan latency = 1 ms } level gpu { count = 2 bandwidth = far } }
model m { layers = 2 hidden = 64 heads = 4 vocabulary = 256 sequence = 32 moe { experts = 8 inner = 64 } }
plan { pass = forward dispatch = how }
HEP
csv() { "$HEPC" --sweep "$1" small.hep -o small.csv && cut -d, -f1,3 small.csv; }
csv wan=10,25 >plain || fail "a let's unit left out"
csv 'wan=10,25 Gbit/s' >given
csv 'wan=10000 Mbit/s,25 Gbit/s' >mixed
cmp -s plain given && cmp -s plain mixed || fail "units of a let: $(cat plain given mixed)"
[ "$(sed -n 2p plain)" != "$(sed -n 3p plain)" ] || fail "no effect: $(cat plain)"
expect 2 "'far' is a bandwidth: give a unit, such as 'far=10 Gbit/s'" "$HEPC" --sweep far=10,20 small.hep
expect 2 "needs a bandwidth such as '10 Gbit/s', got the unit 'ms'" "$HEPC" --sweep "dc.bandwidth=1,2 ms" small.hep
expect 2 "got the unit 'Gbps'" "$HEPC" --sweep "dc.bandwidth=1 Gbps" small.hep
grep -q "did you mean 'Gbit/s'" err || fail "no unit is suggested"
expect 2 "takes plain numbers, got the unit 'GB'" "$HEPC" --sweep "batch=1 GB" small.hep
expect 2 "takes whole numbers, got 1.5" "$HEPC" --sweep batch=1.5 small.hep
# Names: what is ambiguous or without effect is an error, and every suggestion is a name that a sweep takes.
expect 2 'write model.inner or moe.inner' "$HEPC" --sweep inner=1 small.hep
expect 2 'write dc.bandwidth or gpu.bandwidth' "$HEPC" --sweep bandwidth=1 small.hep
expect 2 "nothing in the file uses 'let unused'" "$HEPC" --sweep unused=1,2 small.hep
expect 2 "a sweep takes numbers" "$HEPC" --sweep how=1 small.hep
expect 2 "no figure of a plan depends on it" "$HEPC" --sweep learning_rate=1 small.hep
for name in dc.bandwith bandwith bw dc.latancy gpu.cout hiden moe.inne inne memry topk vocab wann device.memori gpu.bw; do
  expect 2 "did you mean '" "$HEPC" --sweep "$name=8" small.hep
  meant=$(sed -n "s/.*did you mean '\(.*\)'.*/\1/p" err)
  expect 0 '' "$HEPC" --sweep "$meant=8" small.hep || fail "'$meant' was suggested for '$name'"
done
expect 0 "'memory' makes no difference" "$HEPC" --sweep memory=80,160 small.hep
# A key in no block of the file: of a model that is read from a configuration file, of a device that is not given.
cat >config.json <<'JSON'
{"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 256, "num_experts": 8,
 "num_experts_per_tok": 2, "moe_intermediate_size": 64, "intermediate_size": 256}
JSON
sed 's/^model.*/model m from "config.json" { sequence = 32 }/' small.hep >imported.hep
for k in 1 4; do
  sed "s/^model.*/model m from \"config.json\" { sequence = 32  moe { top_k = $k } }/" small.hep >one.hep
  expect 0 '' "$HEPC" --dump=json one.hep -o "top$k.json"
done
expect 0 '' "$HEPC" --sweep top_k=1,4 imported.hep -o swept.json
python3 - <<'PYTHON' || fail "top_k of an imported model"
import json
rows = json.load(open("swept.json"))["rows"]
for row, k in zip(rows, (1, 4)):
    assert abs(row["iteration_s"] / json.load(open("top%d.json" % k))["solution"]["iteration_s"] - 1) < 1e-9
assert rows[0]["iteration_s"] != rows[1]["iteration_s"]
PYTHON
expect 0 '' "$HEPC" --sweep compute=1,100 small.hep
[ "$(grep -c 'dc=' out)" = 2 ] && ! grep -q 'no difference' err || fail "a key of a block that the file lacks: $(cat out err)"
# Interrupted: the rows done are printed, and it is said that there are more.
"$HEPC" --sweep batch=1:500:1 "$sample" >out 2>err &
sleep 2
kill -INT $!
wait $!
[ $? = 5 ] || fail "an interrupted sweep exits with 5"
grep -q '^# interrupted after [0-9]* of 500 points' out || fail "rows of an interrupted sweep"
finish
