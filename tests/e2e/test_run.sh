# The samples small enough are executed and checked; the report has what a program needs.
# builds: fast  seconds: 15
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
for name in ${HEP_CHECKED_SAMPLES:-laptop three_level half_precision}; do
  for strategy in auto ep gather; do
    expect 0 '' "$HEPC" --domain $strategy "$HEP_SOURCE/samples/$name.hep" -o plan.hepb || continue
    expect 0 '' "$HEP_RUN" plan.hepb --check --warmup 0 --iterations 2 --json=run.json
    python3 - "$name $strategy" <<'PYTHON' || fail "$name $strategy"
import json, sys
run = json.load(open("run.json"))
for key in ("plan", "engine", "communicator", "ranks", "iterations", "iteration_s", "predicted_s", "traffic", "check", "loss", "steps"):
    assert key in run, key
assert run["check"]["pass"] is True
assert 0 < run["check"]["max_abs_error"] < run["check"]["tolerance"]
assert len(run["loss"]) == 2 and all(0 < value < 20 for value in run["loss"])
assert run["iteration_s"]["min"] <= run["iteration_s"]["median"] <= run["iteration_s"]["max"]
assert run["steps"] and {"op", "layer", "stream", "median_s"} <= set(run["steps"][0])
PYTHON
  done
done
# Every key is documented.
sed 's/pass = forward/pass = training/' "$HEP_SOURCE/samples/three_level.hep" >training.hep
expect 0 '' "$HEPC" training.hep -o plan.hepb
expect 0 '' "$HEP_RUN" plan.hepb -n 1 --warmup 0 --check --profile run.json
python3 - "$HEP_SOURCE/docs/report.md" <<'PYTHON' || fail "docs/report.md"
import json, re, sys
run = json.load(open("run.json"))
documented = set(re.findall(r"`([a-z_0-9]+)`", "".join(line for line in open(sys.argv[1]) if line.startswith("|"))))
inner = [run["check"], run["traffic"][0], run["steps"][0], run["rank_times"][0], run["iteration_s"]]
names = {"model", "format", "profile_version", "loss_s"} # of --profile, see compiler/frontend/profile.c
keys = set().union(run, *inner) - names
assert keys <= documented, sorted(keys - documented)
PYTHON
# Balanced naive routing: measured traffic equals the plan's, byte for byte.
for sizes in dc=1,gpu=1 dc=2,gpu=1 dc=1,gpu=4 dc=2,gpu=8; do
  expect 0 '' "$HEPC" --domain $sizes --dispatch naive "$HEP_SOURCE/samples/laptop.hep" -o plan.hepb
  expect 0 '' "$HEPC" --dump=json plan.hepb -o plan.json
  expect 0 '' "$HEP_RUN" plan.hepb --routing balanced --warmup 0 --iterations 1 --json=run.json
  python3 - <<'PYTHON' || fail "traffic of $sizes"
import json
plan, run = json.load(open("plan.json")), json.load(open("run.json"))
for planned, measured in zip(plan["traffic"], run["traffic"]):
    total = sum(planned[key] for key in ("exchange_bytes", "routing_bytes", "gather_bytes", "reduce_bytes"))
    assert measured["level"] == planned["level"]
    assert measured["bytes"] == total, (measured, planned)
PYTHON
done
finish
