# hep-run --profile measures, hepc --profile takes it: times of steps, and the routing of every layer.
# builds: dev
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1

cat >eight.hep <<'HEP'
cluster eight {
  level dc  { count = 2  bandwidth = 40 Mbit/s  latency = 1 ms }
  level gpu { count = 4  bandwidth = 4 Gbit/s   latency = 10 us }
  device    { compute = 4 GFLOP/s  memory = 512 MB  memory_bandwidth = 1 GB/s }
}
model small {
  layers = 3  first_dense = 1  hidden = 32  heads = 2  vocabulary = 64  sequence = 32  batch = 4  dtype = f32
  moe { experts = 16  top_k = 2  inner = 64  activation = gelu }
}
plan { pass = forward  domain = { gpu = 2 } }
HEP
expect 0 '' "$HEPC" eight.hep -o plan.hepb || finish
expect 0 '' "$HEP_RUN" plan.hepb --iterations 4 --profile learned.json --json=run.json
expect 0 '' "$HEP_RUN" plan.hepb --iterations 4 --routing skewed --profile skewed.json
for profile in learned skewed; do
  expect 0 '' "$HEPC" --profile $profile.json eight.hep -o $profile.hepb
  "$HEPC" --dump=json $profile.hepb >$profile.plan
done
python3 - <<'PYTHON' || fail "not what was measured"
import json
profile, run, skewed = (json.load(open(name)) for name in ("learned.json", "run.json", "skewed.json"))
assert profile["format"] == "hep-profile" and len(profile["layers"]) == 3
assert "histogram" not in profile["layers"][0] and profile["layers"][0]["dense_s"] > 0
chosen = 4 * 8 * 32 * 4 * 2  # iterations x ranks x tokens x top_k
for layer in profile["layers"][1:] + skewed["layers"][1:]:
    assert len(layer["histogram"]) == 16 and sum(layer["histogram"]) == chosen, layer["histogram"]
assert profile["layers"][1]["histogram"] != profile["layers"][2]["histogram"]
steps = {(step["op"], step["layer"]): step["median_s"] for step in profile["steps"]}
assert profile["layers"][2]["pre_expert_s"] == steps["pre_expert", 2] and profile["loss_s"] == steps["loss", None]
# Skewed choices, seen from the profile alone: exchanges are predicted to take longer.
plans = {name: json.load(open(name + ".plan"))["solution"] for name in ("learned", "skewed")}
assert plans["skewed"]["layers"][0]["exchange_s"] > 1.1 * plans["learned"]["layers"][0]["exchange_s"], plans
PYTHON

# Of another model, or none at all.
sed 's/inner = 64/inner = 96/' eight.hep >other.hep
expect 3 "another model: 'inner' is 64 there and 96 here" "$HEPC" --profile learned.json other.hep
expect 3 'no profile of version 1' "$HEPC" --profile run.json eight.hep
sed -E 's/("pre_expert_s":\s*)[^,]*/\11e300/' learned.json >absurd.json
expect 3 "expected 'pre_expert_s' and 'dense_s', in seconds" "$HEPC" --profile absurd.json eight.hep
expect 3 "cannot read 'absent.json'" "$HEPC" --profile absent.json eight.hep
expect 2 'profile needs a .hep file' "$HEPC" --profile learned.json plan.hepb
expect 2 'will not be overwritten' "$HEP_RUN" --profile ./plan.hepb plan.hepb
expect 2 'write to one file' "$HEP_RUN" --profile x.json --trace x.json plan.hepb
expect 6 'absent/profile.json' "$HEP_RUN" --profile absent/profile.json plan.hepb
finish
