# Trainings of published models with one micro-batch per update and with sixteen: plans verify, what crosses the slow link
# for weights does not depend on their number, sixteen take far less than sixteen times as long.
# builds: fast  seconds: 60
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
for sample in mixtral_8x7b qwen3_30b_a3b deepseek_v3; do
  for m in 1 16; do
    expect 0 '' "$HEPC" -D micro_batches=$m "$HEP_SOURCE/samples/training/$sample.hep" -o plan.hepb || continue
    expect 0 '' "$HEPC" --check plan.hepb
    expect 0 '' "$HEPC" --dump=json plan.hepb -o $sample.$m.json
    expect 0 '' "$HEPC" --dump=ir plan.hepb -o plan.ir
    expect 0 '' "$HEPC" plan.ir -o again.hepb
    cmp -s plan.hepb again.hepb || fail "$sample, $m micro-batches: binary -> text -> binary changed it"
  done
  python3 - $sample.1.json $sample.16.json <<'PYTHON' || fail "$sample: one micro-batch and sixteen"
import json, sys
one, many = (json.load(open(path)) for path in sys.argv[1:])
assert many["micro_batches"] == 16
for plan in (one, many):
    solution = plan["solution"]
    assert abs(solution["simulated_s"] / solution["iteration_s"] - 1) < 0.25, solution
gathers = [plan["baselines"]["gather"]["traffic"][0]["gather_bytes"] for plan in (one, many)]
assert gathers[1] in (gathers[0], 2 * gathers[0]), gathers # twice where experts are gathered again
assert many["solution"]["iteration_s"] < 8 * one["solution"]["iteration_s"]
assert many["solution"]["iteration_s"] < many["baselines"]["ep_dedup"]["iteration_s"]
PYTHON
done
finish
