# Sweeps: tables, CSV and JSON over lists, steps and logarithmic ranges; what does not fit; wrong names and values.
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
sample=$HEP_SOURCE/samples/two_dc.hep
expect 0 'point 6 of 6' "$HEPC" --sweep dc.bandwidth=1:100:log3 --sweep batch=4,8 "$sample"
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
expect 2 'written as .csv, .json or .svg' "$HEPC" --sweep batch=1,2 -o sweep.hepb "$sample"
[ ! -e sweep.hepb ] || fail "a sweep in a form that is not its own"
expect 2 "did you mean 'batch'" "$HEPC" --sweep bach=1 "$sample"
expect 2 'takes no numbers' "$HEPC" --sweep dtype=1 "$sample"
for values in 2:1:1 1: a 1,,2 1:2:log1 '1 parsec' ''; do
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
# Interrupted: the rows done are printed, and it is said that there are more.
"$HEPC" --sweep batch=1:500:1 "$sample" >out 2>err &
sleep 2
kill -INT $!
wait $!
[ $? = 5 ] || fail "an interrupted sweep exits with 5"
grep -q '^# interrupted after [0-9]* of 500 points' out || fail "rows of an interrupted sweep"
finish
