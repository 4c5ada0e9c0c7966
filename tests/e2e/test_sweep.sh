# Sweeps: tables, CSV and JSON over lists, steps and logarithmic ranges; what does not fit; wrong names and values.
# builds: dev  seconds: 6
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
sample=$work/two_dc.hep # with fewer layers
sed 's/layers = 12/layers = 4/' "$HEP_SOURCE/samples/two_dc.hep" >"$sample"
grep -q 'layers = 4' "$sample" || fail "the sample is another one"
expect 0 '' "$HEPC" --sweep dc.bandwidth=1:100:log3 --sweep batch=4,8 "$sample"
[ -s err ] && fail "progress where nobody looks: $(cat err)"
grep -qE '^100  *8  *(dc=|mixed)' "$work/out" || fail "the last row: $(tail -1 "$work/out")"
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
    named = {name: plan["baselines"][name]["iteration_s"] / expected for name in ("ep", "ep_dedup", "ep_inside")
             if name in plan["baselines"] and plan["baselines"][name]["fits"]}
    assert record["best_baseline"] == row["best_baseline"] == plan["solution"]["best_baseline"] == min(named, key=named.get)
    for got in (record["over_best"], float(row["over_best"]), plan["solution"]["over_best_baseline"]):
        assert abs(got - min(named.values())) < 1e-5, (got, named)
    assert abs(record["over_ep"] - plan["baselines"]["ep"]["iteration_s"] / expected) < 1e-6
PYTHON
expect 0 '' "$HEPC" --sweep sequences=2:6:2 "$sample" # a let of the file
[ "$(grep -c 'dc=' "$work/out")" = 3 ] || fail "three values of a let: $(cat "$work/out")"
expect 0 'subtracts the mean of whole ones' "$HEPC" --sweep gpu.count=2,3,8 "$sample"
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
# The chart: over the best baseline and over plain EP a point for every row with a plan, along the axis with the most
# values, a colour for every value of the other.
expect 0 '' "$HEPC" --sweep dc.bandwidth=1:8:log4 --sweep memory=1,40,80 -o "$work/chart.svg" "$sample"
expect 0 '' "$HEPC" --sweep dc.bandwidth=1:8:log4 --sweep memory=1,40,80 -o "$work/chart.json" "$sample"
python3 - "$work" <<'PYTHON' || fail "the chart"
import json, sys, xml.etree.ElementTree as tree
root = tree.parse(sys.argv[1] + "/chart.svg").getroot()
rows = [row for row in json.load(open(sys.argv[1] + "/chart.json"))["rows"] if "refused" not in row]
svg = "{http://www.w3.org/2000/svg}"
names = [text.text for text in root.iter(svg + "text")]
for name in ("memory 40 GB", "memory 80 GB: as memory 40 GB", "dc.bandwidth (Gbit/s)", "1: as fast as the baseline",
             "over the best baseline", "over plain EP (naive dispatch)", "1", "2", "4", "8"):
    assert name in names, (name, names)
assert not any("memory 1 GB" in name or "bandwidth 1 " in name for name in names), names
_, _, width, height = map(float, root.get("viewBox").split())
drawn = {}
for group in root.iter(svg + "g"):
    for circle in group.iter(svg + "circle"):
        x, y = float(circle.get("cx")), float(circle.get("cy"))
        assert 0 < x < width and 0 < y < height
        series, note = circle.find(svg + "title").text.split("\n")
        drawn[series, note] = x, y, "dashed" in group.get("class")
assert len(rows) == 8 and len(drawn) == 16, (rows, drawn)
phrases = {"ep": "plain EP", "ep_dedup": "deduplicated EP", "ep_inside": "EP inside each dc"}
points = []
for row in rows:
    bandwidth, memory = row["values"]
    for over, baseline, dashed in (("over_best", row["best_baseline"], False), ("over_ep", "ep", True)):
        x, y, is_dashed = drawn["memory %d GB" % memory, "dc.bandwidth %d Gbit/s: %.3gx as fast as %s" %
                                (round(bandwidth), row[over], phrases[baseline])]
        assert is_dashed == dashed
        points.append((row[over], y, bandwidth, x))
lines = sorted({(round(bandwidth), x) for _, _, bandwidth, x in points})
assert [value for value, _ in lines] == [1, 2, 4, 8], lines
steps = [b[1] - a[1] for a, b in zip(lines, lines[1:])] # logarithmic, as the sweep is
assert max(steps) - min(steps) < 0.3 and min(steps) > 0, steps
points.sort() # higher is faster, in proportion
(low, y_low, *_), (high, y_high, *_) = points[0], points[-1]
for speed_up, y, *_ in points:
    assert abs(y - (y_low + (speed_up - low) / (high - low) * (y_high - y_low))) < 0.3 and y_high < y_low
PYTHON
# The chart of docs/planner.md is the one that its command draws.
command=$(sed -n 's/^    \(hepc --sweep .*\) -o sweep.svg samples/\1 -o sweep.svg samples/p' "$HEP_SOURCE/docs/planner.md")
[ -n "$command" ] || fail "docs/planner.md has no chart"
cp -r "$HEP_SOURCE/samples" .
PATH="$(dirname "$HEPC"):$PATH" bash -c "$command" || fail "the command of docs/planner.md"
python3 - sweep.svg "$HEP_SOURCE/docs/sweep.svg" <<'PYTHON' || fail "docs/sweep.svg is not what hepc draws"
import re, sys
texts, figures = zip(*((re.sub(r"[\d.]+", "#", page), list(map(float, re.findall(r"\d+\.?\d*", page))))
                       for page in (open(path).read() for path in sys.argv[1:])))
assert texts[0] == texts[1]
for a, b in zip(*figures):
    assert abs(a - b) <= 0.2 + 0.01 * abs(b), (a, b)
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
expect 2 "no figure of a plan depends on it" "$HEPC" --sweep training.learning_rate=1 small.hep
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
[ "$(grep -cE '^(1|100) ' out)" = 2 ] && ! grep -q 'no difference' err || fail "a key of a block that the file lacks: $(cat out err)"
# Interrupted: the rows done are printed, and it is said that there are more.
"$HEPC" --sweep batch=1:500:1 "$sample" >out 2>err &
sleep 2
kill -INT $!
wait $!
[ $? = 75 ] || fail "an interrupted sweep exits with 75"
grep -q '^# interrupted after [0-9]* of 500 points' out || fail "rows of an interrupted sweep"
finish
