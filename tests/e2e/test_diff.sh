# How plans differ: nothing where they are one, every kind of difference where they are not.
# builds: dev
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
laptop=$HEP_SOURCE/samples/laptop.hep
"$HEPC" "$laptop" -o laptop.hepb >/dev/null && "$HEPC" --dump=ir laptop.hepb >laptop.ir || fail "no plan"
"$HEPC" --domain ep "$laptop" -o ep.hepb >/dev/null || fail "no plain EP"

for other in laptop.hepb laptop.ir "$laptop"; do
  expect 0 '' "$HEPC" --diff laptop.hepb "$other"
  grep -q '^the same plan$' out || fail "laptop.hepb and $other: $(cat out)"
done

expect 1 '' "$HEPC" --diff laptop.hepb ep.hepb
for line in '^A: laptop.hepb$' '^choices, layers' 'dc=1 gpu=1$' '^iteration, simulated .* ms .*%' \
  '^sent/GPU over dc, tokens +0 B .* new$' '^gather +dc +4 +0 '; do
  grep -qE "$line" out || fail "no '$line' in: $(cat out)"
done
expect 1 '' "$HEPC" --diff "$laptop" --domain ep "$laptop"
sed 1,2d out >compiled
"$HEPC" --diff laptop.hepb ep.hepb >out
sed 1,2d out | cmp -s - compiled || fail "options are not for FILE alone"

expect 1 '' "$HEPC" --diff laptop.hepb ep.hepb -o forth.json
expect 1 '' "$HEPC" --diff ep.hepb laptop.hepb -o back.json
"$HEPC" --dump=json laptop.hepb >a.json && "$HEPC" --dump=json ep.hepb >b.json || fail "no JSON"
# The predicted time of one step, changed by hand.
python3 - <<'PYTHON' || fail "no edited plan"
import re
open("edited.ir", "w").write(re.sub(r"cost_s \S+", "cost_s 0.5", open("laptop.ir").read(), count=1))
PYTHON
expect 1 '' "$HEPC" --diff laptop.ir edited.ir -o edited.json
python3 - <<'PYTHON' || fail "JSON"
import json
forth, back, edited, a, b = (json.load(open(name + ".json")) for name in ("forth", "back", "edited", "a", "b"))
assert not forth["same"] and not edited["same"]
figure = lambda diff, key, level=None: next((row["a"], row["b"]) for row in diff["figures"]
                                            if row["figure"] == key and row["level"] == level)
assert figure(forth, "steps") == (a["steps"], b["steps"])
assert figure(forth, "iteration_s") == (a["solution"]["iteration_s"], b["solution"]["iteration_s"])
assert figure(forth, "simulated_s") == (a["solution"]["simulated_s"], b["solution"]["simulated_s"])
for one, other in zip(a["traffic"], b["traffic"]):
    for key in ("exchange_bytes", "gather_bytes"):
        assert figure(forth, key, one["level"]) == (one[key], other[key])
layers = {layer for row in forth["choices"] for layer in range(row["first_layer"], row["last_layer"] + 1)}
assert layers == {x["layer"] for x, y in zip(a["solution"]["layers"], b["solution"]["layers"])
                  if x["domain"] != y["domain"]} and layers
# Steps that only one plan has account for the difference in number, and turn round with the plans.
removed = [step for step in forth["steps"] if step["b"] is None]
added = [step for step in forth["steps"] if step["a"] is None]
assert len(added) - len(removed) == b["steps"] - a["steps"] and removed and added
turned = lambda step: (step["op"], step["layer"], step["level"], step["b"], step["a"])
assert {turned(step) for step in added + removed} == {
    (step["op"], step["layer"], step["level"], step["a"], step["b"])
    for step in back["steps"] if step["a"] is None or step["b"] is None}
assert [(step["a"], step["b"], step["changed"], step["moved"]) for step in edited["steps"]] == [(0, 0, True, False)]
assert not edited["choices"] and not edited["settings"]
PYTHON

# Settings have units, and digits enough to differ; files' own numbers are in the JSON.
expect 1 '' "$HEPC" --diff laptop.hepb -D "link=11 Mbit/s" "$laptop"
grep -qE '^level dc +bandwidth +100 Mbit/s +11 Mbit/s$' out || fail "units of a bandwidth: $(cat out)"
grep -qE '^plan +gap +[0-9.]+ % +[0-9.]+ %$' out || fail "a gap in per cent: $(cat out)"
expect 1 '' "$HEPC" --diff laptop.hepb -D "link=100.01 Mbit/s" "$laptop"
grep -qE '^level dc +bandwidth +12500000 B/s +12501250 B/s$' out || fail "digits of a bandwidth: $(cat out)"
expect 1 '' "$HEPC" --diff laptop.hepb "$HEP_SOURCE/samples/two_dc.hep"
for line in 'level gpu +latency +100 us +5 us' 'device +compute +4 GFLOP/s +60 TFLOP/s' 'device +memory +512 MB +80 GB' \
  'device +memory_bandwidth +1 GB/s +2 TB/s' 'model +pre_expert_s +[0-9.]+ ms +[0-9.]+ us' 'plan +ratio +1 +50' \
  'training +beta1 +- +0.9'; do
  grep -qE "^$line\$" out || fail "no '$line' in: $(cat out)"
done
expect 1 '' "$HEPC" --diff laptop.hepb -D "link=11 Mbit/s" "$laptop" -o units.json
python3 - <<'PYTHON' || fail "units in JSON"
import json
assert {"record": "level dc", "field": "bandwidth", "a": "12500000", "b": "1375000", "unit": "B/s"} in json.load(open("units.json"))["settings"]
PYTHON

# A bandwidth or latency edited by hand: predictions are the compiler's, and no longer true.
for edit in 's/^\(  level dc .*bandwidth \)[0-9]*/\1250000/' 's/^\(  level gpu .*latency \)[0-9.e-]*/\10.01/'; do
  sed "$edit" laptop.ir >stale.ir
  cmp -s laptop.ir stale.ir && fail "nothing edited by $edit"
  expect 0 "stale.ir: predictions are stale: '[a-z_]+' of layer [0-9]+ takes" "$HEPC" --check stale.ir
  expect 1 'predictions are stale' "$HEPC" --diff laptop.ir stale.ir
done
for sample in laptop six_sites light padded skewed heterogeneous_layers; do
  expect 0 '' "$HEPC" "$HEP_SOURCE/samples/$sample.hep" -o fresh.hepb
  expect 0 '' "$HEPC" --check fresh.hepb
  [ -s err ] && fail "$sample: $(cat err)"
done

# Other clusters: settings and levels of either side.
expect 1 '' "$HEPC" --diff laptop.hepb "$HEP_SOURCE/samples/three_level.hep"
grep -qE '^level node +count +- ' out || grep -qE '^level [a-z]+ +name ' out || fail "no other levels: $(cat out)"
expect 1 '' "$HEPC" --diff laptop.hepb "$HEP_SOURCE/samples/six_sites.hep"
grep -qE '^port [a-z]' out || fail "no ports: $(cat out)"

expect 2 "'--domain needs|--domain needs a .hep file" "$HEPC" --diff laptop.hepb --domain ep ep.hepb
expect 2 'do not go together' "$HEPC" --diff laptop.hepb --explain "$laptop"
expect 2 'will not be overwritten' "$HEPC" --diff laptop.hepb ep.hepb -o laptop.hepb
expect 6 'none.hepb: No such file' "$HEPC" --diff none.hepb ep.hepb
expect 3 'bad.ir' bash -c 'echo "hep_plan 4" >bad.ir; "$0" --diff bad.ir ep.hepb' "$HEPC"
finish
