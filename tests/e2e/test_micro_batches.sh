# Iterations of several micro-batches as users see them: choice, bytes and times against their number, what every output
# says of them, a run that equals plain EP's, checks, checkpoints.
# builds: fast  seconds: 8
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
sample=$HEP_SOURCE/samples/laptop_training.hep
for m in 1 2 4; do
  expect 0 '' "$HEPC" -D micro_batches=$m "$sample" -o $m.hepb
  expect 0 '' "$HEPC" --dump=json $m.hepb -o $m.json
done

# Weights cross the slow link as often however many micro-batches there are, tokens in each; a micro-batch takes less.
python3 - 1.json 2.json 4.json <<'PYTHON' || fail "figures against micro-batches"
import json, sys
plans = [json.load(open(path)) for path in sys.argv[1:]]
ep = [plan["baselines"]["ep_dedup"] for plan in plans]
gather = [plan["baselines"]["gather"] for plan in plans]
for plan, m in zip(plans, (1, 2, 4)):
    assert plan["micro_batches"] == m, plan["micro_batches"]
    assert abs(plan["solution"]["micro_batch_s"] * m - plan["solution"]["iteration_s"]) < 1e-12
    assert ("An iteration is %d micro-batches" % m in plan["solution"]["decision"]) == (m > 1)
    assert (plan["executions"] > plan["steps"]) == (m > 1)
for m, row in zip((1, 2, 4), ep):
    for now, once in zip(row["traffic"], ep[0]["traffic"]):
        assert abs(now["exchange_bytes"] - m * once["exchange_bytes"]) <= 1e-9 * now["exchange_bytes"], (m, now, once)
for row in gather:
    for now, once in zip(row["traffic"], gather[0]["traffic"]):
        for key in ("gather_bytes", "reduce_bytes", "dense_gather_bytes", "dense_reduce_bytes"):
            assert now[key] == once[key], (key, now, once)
each = [plan["solution"]["micro_batch_s"] for plan in plans]
assert each[0] > each[1] > each[2], each
PYTHON

# What --explain says of other numbers is what is planned with them, but for the effort of the search.
expect 0 '' "$HEPC" --explain "$sample"
grep -qE '^  4 .* now$' out || fail "--explain does not mark the present number: $(cat out)"
expect 0 '' "$HEPC" --explain --json "$sample"
python3 - out 1.json 2.json 4.json <<'PYTHON' || fail "--explain: $(cat out)"
import json, sys
rows = json.load(open(sys.argv[1]))["micro_batches"]
plans = {m: json.load(open(path))["solution"] for m, path in zip((1, 2, 4), sys.argv[2:])}
assert [row["micro_batches"] for row in rows] == [1, 2, 4, 8, 16, 32, 64]
assert [row["now"] for row in rows] == [m == 4 for m in (1, 2, 4, 8, 16, 32, 64)]
for row in rows:
    assert row["fits"] and abs(row["micro_batch_s"] * row["micro_batches"] - row["iteration_s"]) < 1e-12, row
    if row["micro_batches"] in plans:
        assert abs(row["iteration_s"] / plans[row["micro_batches"]]["iteration_s"] - 1) < 2e-3, row
each = [row["micro_batch_s"] for row in rows]
assert each == sorted(each, reverse=True), each
PYTHON
expect 0 '' "$HEPC" --explain "$HEP_SOURCE/samples/laptop.hep"
grep -q 'micro-batches' out && fail "a forward pass has no micro-batches"

# What every output says.
expect 0 '' "$HEPC" --dump=summary 4.hepb
grep -q '^pass training, 4 micro-batches per iteration' out && grep -q '^  activations: kept for the backward pass' out &&
  grep -q 'simulated: .* per micro-batch$' out || fail "the summary: $(cat out)"
expect 0 '' "$HEPC" --simulate 4.hepb
grep -q '^per micro-batch, of 4: ' out && grep -qE '^expert_backward +[0-9]+/3 ' out || fail "--simulate: $(cat out)"
expect 1 '' "$HEPC" --diff 1.hepb 4.hepb
grep -qE '^plan +micro_batches +1 +4$' out && grep -q '^per micro-batch, predicted' out || fail "--diff: $(cat out)"
expect 0 '' "$HEPC" --dump=dot 4.hepb
grep -q 'first micro-batch' out && grep -q 'last micro-batch' out || fail "the graph says nothing of first and last"
expect 0 '' "$HEPC" --dump=trace 4.hepb -o trace.json
expect 0 '' "$HEPC" --dump=ir 4.hepb -o plan.ir
expect 0 '' "$HEPC" --emit=html -o report.html 4.hepb
python3 - plan.ir trace.json report.html <<'PYTHON' || fail "executions and memory"
import json, re, sys
text, trace, page = (open(path).read() for path in sys.argv[1:])
steps = re.findall(r"^step s\d+ +\w+ +(?:when (\w+))?", text, re.M)
every = sum(1 for when in steps if not when)
slices = [event for event in json.loads(trace)["traceEvents"] if event["ph"] == "X"]
assert len(slices) == 4 * every + len(steps) - every, (len(slices), every, len(steps))
assert sum(1 for event in slices if event["args"].get("micro_batch") == 3) == every
size = {"f32": 4, "i32": 4}
sums, counts = {}, {}
for dtype, rows, cols, kind, rest in re.findall(
        r"^buffer .*? dtype (\w+) +rows (\d+) +cols (\d+) +kind (\w+)(.*)$", text, re.M):
    values = 4 if "span all" in rest else 2 if "span micro_batch" in rest else 1 # two go abreast
    sums[kind] = sums.get(kind, 0) + values * size[dtype] * int(rows) * int(cols)
    counts[kind] = counts.get(kind, 0) + 1
rows = re.findall(r'<i class="key k\d"></i>(\w+)</th><td class="n">(\d+)</td><td class="n">([\d.]+) (k?M?)B</td>', page)
assert rows
for kind, count, value, unit in rows:
    assert int(count) == counts[kind], (kind, count, counts)
    shown = float(value) * {"": 1, "k": 1e3, "M": 1e6}[unit]
    assert abs(shown - sums[kind]) <= 0.006 * sums[kind], (kind, shown, sums)
assert "of micro-batch 3" in page and "of micro-batch 4" not in page
assert "An iteration has 4 micro-batches of 512 tokens on each GPU; activations are kept" in page
PYTHON

# In turns, two or three at a time, or one after the other: what is asked for, else what is faster; the same losses.
for way in none full; do
  sed "s/pass = training/pass = training  interleave = $way/" "$sample" >way.hep
  expect 0 '' "$HEPC" -D micro_batches=4 --domain site=1,gpu=2 way.hep -o way.hepb
  expect 0 '' "$HEPC" --dump=json way.hepb -o way.json
  expect 0 '' "$HEP_RUN" -n 2 --losses $way.csv way.hepb && cut -d, -f1-5 $way.csv >$way.losses
  python3 -c "import json; plan = json.load(open('way.json'))
assert plan['abreast'] == (2 if '$way' == 'full' else 1), plan['abreast']" || fail "interleave = $way"
done
cmp none.losses full.losses || fail "micro-batches in turns train otherwise"
grep -q 'abreast' plan.ir && grep -q ', 2 at a time in turns, ' report.html || fail "the plan does not interleave"
expect 0 '' "$HEPC" -D micro_batches=9 "$HEP_SOURCE/samples/laptop_training.hep" -o way.hepb
expect 0 '' "$HEPC" --dump=summary way.hepb
grep -q '3 at a time pass a layer in turns' out || fail "nine micro-batches: $(cat out)"
expect 0 '' "$HEPC" --domain gather --dump=json "$sample" # nothing travels meanwhile
python3 -c "import json; assert json.load(open('out'))['abreast'] == 1" || fail "turns that gain nothing"
sed 's/pass = training/pass = forward  interleave = full/; /^training/d' "$sample" >forward.hep
expect 3 "'interleave' goes with pass 'training'" "$HEPC" forward.hep

# Plain EP and the plan come to the same losses, and the check holds what was computed last.
# Of fewer tokens, which run as the sample does: experts are gathered over the slow link.
sed 's/sequence = 64  batch = 8/sequence = 16  batch = 4/; s/inner = 512/inner = 128/' "$sample" >small.hep
grep -q 'sequence = 16  batch = 4' small.hep && grep -q 'inner = 128' small.hep || fail "the sample is another one"
expect 0 '' "$HEPC" --domain ep --dispatch naive small.hep -o ep.hepb
for m in 3 4; do
  expect 0 '' "$HEPC" -D micro_batches=$m --domain site=2,gpu=1 small.hep -o $m.hepb
done
for plan in ep 4; do
  expect 0 '' "$HEP_RUN" -n 4 --json=$plan.run $plan.hepb
done
grep -q 'in each of 4 micro-batches, training pass' out && grep -q '^# per micro-batch: ' out || fail "hep-run: $(cat out)"
expect 0 '' "$HEP_RUN" -n 1 --steps 4.hepb
grep -qE '^ +[0-9]+/3 expert ' out && grep -q '^# step 7/2: ' out || fail "--steps: $(cat out)"
for plan in 4 3; do
  expect 0 '' "$HEP_RUN" --check --warmup 0 -n 1 $plan.hepb
  grep -q '^check: passed' out || fail "the check of $plan.hepb: $(cat out)"
done
python3 - ep.run 4.run <<'PYTHON' || fail "losses of plain EP and of the plan"
import json, sys
ep, plan = (json.load(open(path)) for path in sys.argv[1:])
assert plan["micro_batches"] == 4
tokens = 4 * 64 * 8
assert abs(plan["tokens_per_s"] * plan["iteration_s"]["median"] - tokens) < 1e-6 * tokens
for a, b, s, t in zip(ep["loss"], plan["loss"], ep["loss_tolerance_turned"], plan["loss_tolerance_turned"]):
    assert abs(a - b) <= s + t, (a, b, s, t)
assert plan["loss"][-1] < plan["loss"][0]
PYTHON

# The embedding gathered for each use trains as one that is kept; over the slow link weights cross as often as planned.
for lap in 2 4; do
  sed "s/pass = training/pass = training  once_embedding = none  lap = $lap/" small.hep >halves.hep
  expect 0 '' "$HEPC" -D micro_batches=4 --domain site=2,gpu=1 halves.hep -o halves.hepb
  expect 0 '' "$HEPC" --dump=summary halves.hepb
  grep -q '^  embedding: gathered for each use' out || fail "the summary: $(cat out)"
  expect 0 '' "$HEP_RUN" -n 4 --json=halves.run halves.hepb
  python3 - 4.run halves.run <<'PYTHON' || fail "an embedding gathered for each use, laps of $lap"
import json, sys
kept, halves = (json.load(open(path)) for path in sys.argv[1:])
for a, b, s in zip(kept["loss"], halves["loss"], kept["loss_tolerance_turned"]):
    assert abs(a - b) <= s, (a, b, s)
once, twice = kept["traffic"][0], halves["traffic"][0]
assert twice["bytes"] == twice["planned_bytes"], twice
assert twice["gather_bytes"] > once["gather_bytes"] and twice["reduce_bytes"] > once["reduce_bytes"], (once, twice)
PYTHON
done

# Gradients that return in every lap over levels whose weights are kept: over those, they cross as often as there are
# laps, weights once. The losses are those of gradients that return once, in threads and processes the same bits.
for laps in 2 4; do
  sed "s/pass = training/pass = training  once_dense = all  once_embedding = all  lap = $((4 / laps))/" small.hep >lapped.hep
  sed "s/once_dense = all/once_dense = all  once_gradient = none/" lapped.hep >apart.hep
  for way in lapped apart; do
    expect 0 '' "$HEPC" -D micro_batches=4 --domain site=2,gpu=1 $way.hep -o $way.hepb
    expect 0 '' "$HEPC" --dump=json $way.hepb -o $way.json
    expect 0 '' "$HEP_RUN" -n 4 --json=$way.run --losses $way.csv $way.hepb
  done
  expect 0 '' "$HEPC" --dump=summary apart.hepb
  grep -q '^  layers 0.*, replicas kept, gradients return in every lap$' out &&
    grep -q '^  dense weights.*, gradients return in every lap$' out || fail "the summary: $(cat out)"
  expect 0 '' "$HEPC" --dump=ir apart.hepb -o apart.ir && expect 0 '' "$HEPC" apart.ir -o again.hepb
  cmp -s apart.hepb again.hepb || fail "the text form of gradients that return apart"
  expect 1 '' "$HEPC" --diff lapped.hepb apart.hepb
  grep -q ', gradients return in every lap' out || fail "--diff: $(cat out)"
  python3 - $laps lapped apart <<'PYTHON' || fail "gradients that return in each of $laps laps"
import json, sys
laps = int(sys.argv[1])
(kept, apart), (before, after) = ([json.load(open(name + end)) for name in sys.argv[2:]] for end in (".run", ".json"))
names = [[(layer["once"], layer["once_gradient"]) for layer in plan["solution"]["layers"]] for plan in (before, after)]
assert set(names[0]) == {("all", "all")} and set(names[1]) == {("all", "none")}, names
assert [plan["solution"]["once_dense_gradient"] for plan in (before, after)] == ["all", "none"]
for a, b, s in zip(kept["loss"], apart["loss"], kept["loss_tolerance_turned"]):
    assert abs(a - b) <= s, (a, b, s)
for run, plan in ((kept, before), (apart, after)):
    for level, planned in zip(run["traffic"], plan["traffic"]):
        for key in ("gather_bytes", "reduce_bytes"):
            assert abs(level[key] - planned[key] - planned["dense_" + key]) < 1e-3, (level, planned)
# The embedding's gradient returns once all the same, which is less than half of the dense ones.
for l, (once, often) in enumerate(zip(before["traffic"], after["traffic"])):
    assert often["gather_bytes"] == once["gather_bytes"] and often["dense_gather_bytes"] == once["dense_gather_bytes"]
    assert often["reduce_bytes"] == laps * once["reduce_bytes"], (l, once, often)
    more = often["dense_reduce_bytes"] - once["dense_reduce_bytes"]
    assert (laps - 1) * 0.5 * once["dense_reduce_bytes"] < more < (laps - 1) * once["dense_reduce_bytes"], (once, often)
assert after["memory_bytes"] < before["memory_bytes"], (before["memory_bytes"], after["memory_bytes"])
PYTHON
  if has_mpi apart.hepb; then
    expect 0 '' mpirun --oversubscribe -n 8 "$HEP_RUN" -n 4 --losses mpi.csv apart.hepb
    cut -d, -f1-5 mpi.csv | cmp -s - <(cut -d, -f1-5 apart.csv) || fail "MPI and threads differ where gradients return apart"
  fi
done

# Checkpoints lie between iterations: what resumes from one goes on as if nothing had been.
expect 0 '' "$HEP_RUN" -n 2 --checkpoint saved --every 2 4.hepb
expect 0 '' "$HEP_RUN" -n 2 --resume saved --json=resumed.run 4.hepb
python3 - 4.run resumed.run <<'PYTHON' || fail "a resumed run"
import json, sys
whole, resumed = (json.load(open(path)) for path in sys.argv[1:])
assert resumed["loss"] == whole["loss"][2:], (resumed["loss"], whole["loss"])
PYTHON
finish
