# Training as it is used: data and what is held out of it, losses as they come, losses that are not finite, options that
# ask for training where there is none, and interruption at any time.
# builds: fast  seconds: 10
. "$(dirname "$0")/checkpoint_lib.sh"
compile ep --domain ep
compile outer --domain dc=2,gpu=1
sed 's/pass = training/pass = forward/; /^training/d' model.hep >forward.hep
expect 0 '' "$HEPC" --domain ep -o forward.hepb forward.hep

# Held-out losses: the same in every strategy, on the same windows every time, and training does not notice.
for _ in $(seq 60); do printf 'the quick brown fox jumps over the lazy dog. '; done >text
train plain -n 12 --data text outer.hepb
train watched -n 12 --data text --validate 5 --losses watched.csv outer.hepb
[ "$(losses plain)" = "$(losses watched)" ] || fail "evaluating changes the training"
train as_ep -n 12 --data text --validate 5 ep.hepb
train half -n 12 --data text --validate 5 --validation 0.5 ep.hepb
python3 - <<'PYTHON' || fail "held-out losses"
import csv, json, math
watched, as_ep, half, plain = (json.load(open(n + ".json")) for n in ("watched", "as_ep", "half", "plain"))
assert [v["iteration"] for v in watched["validation"]] == [5, 10, 12]
assert plain["validation"] == [] and half["loss"] != as_ep["loss"]
for a, b in zip(watched["validation"], as_ep["validation"]):
    assert abs(a["loss"] / b["loss"] - 1) < 2e-4, (a, b)
assert watched["validation"][-1]["loss"] < watched["validation"][0]["loss"], "nothing is learned"
assert watched["traffic"] == plain["traffic"] and len(watched["steps"]) == len(plain["steps"])
rows = list(csv.DictReader(open("watched.csv")))
assert all(abs(float(r["loss"]) - loss) < 1e-12 for r, loss in zip(rows, watched["loss"], strict=True))
assert [int(r["iteration"]) for r in rows] == list(range(1, 13))
logged = [(int(r["iteration"]), float(r["validation_loss"])) for r in rows if r["validation_loss"]]
assert all(i == v["iteration"] and abs(loss - v["loss"]) < 1e-12
           for (i, loss), v in zip(logged, watched["validation"], strict=True))
assert all(r["skipped"] == "0" and float(r["iteration_s"]) > 0 for r in rows)
for r in rows: # a line up in 3 iterations, half a cosine down to a tenth in 30
    i = int(r["iteration"]) - 1
    rate = 0.01 * ((i + 1) / 3 if i < 3 else 0.1 + 0.9 * (1 + math.cos(math.pi * (i - 3) / 30)) / 2)
    assert abs(float(r["learning_rate"]) / rate - 1) < 1e-6, (i, r["learning_rate"], rate)
PYTHON
expect 0 '' "$HEP_RUN" -n 2 --data text --validate 1 outer.hepb
grep -q '^validation: loss [0-9.]* after iteration 1, [0-9.]* after iteration 2$' out || fail "report: $(cat out)"

# A log continues where a training was resumed, also when that was killed after its last checkpoint.
train first -n 8 --checkpoint ck --every 4 --losses log.csv outer.hepb
cp log.csv whole.csv
rm -r ck/step-000008
train second -n 4 --resume ck --losses log.csv outer.hepb
[ "$(cut -d, -f1-5 log.csv)" = "$(cut -d, -f1-5 whole.csv)" ] || fail "the log continues differently: $(cat log.csv)"
echo 'my thesis' >thesis
expect 3 'will not be written over' "$HEP_RUN" --losses thesis outer.hepb
expect 6 'absent/log' "$HEP_RUN" --losses absent/log outer.hepb
expect 2 'that is the plan' "$HEP_RUN" --losses outer.hepb outer.hepb
expect 2 "write to one file, 'x'" "$HEP_RUN" --losses x --json=x outer.hepb

# Data that will not do.
: >nothing
head -c 60 text >short
expect 3 'nothing: the file is empty' "$HEP_RUN" --data nothing outer.hepb
expect 3 "short: 54 bytes to train on, fewer than a rank's batch of 68" "$HEP_RUN" --data short outer.hepb
head -c 400 text >brief
expect 3 "brief: 40 bytes for validation, fewer than" "$HEP_RUN" --data brief --validate 1 outer.hepb
expect 0 '' "$HEP_RUN" -n 1 --data brief outer.hepb
expect 6 'absent: No such file' "$HEP_RUN" --data absent outer.hepb
expect 6 'Is a directory' "$HEP_RUN" --data . outer.hepb

# An expert that overflows: found on the rank that has it; what the layers before it compute is finite.
train sound -n 1 --checkpoint spoilt ep.hepb
python3 - <<'PYTHON' || fail "cannot spoil a checkpoint"
import json, struct, zlib
path = "spoilt/step-000001/"
manifest = json.load(open(path + "manifest.json"))
head, at = manifest["checkpoint"], 0
for buffer in head["buffers"]:
    if buffer["name"] == "L1.experts":
        break
    at += (buffer["of"] != "equal") * buffer["rows"] * buffer["cols"] * 4
data = bytearray(open(path + "rank-00002", "rb").read())
data[at:at + 4 * 32] = struct.pack("<32f", *[float("inf")] * 32)
open(path + "rank-00002", "wb").write(data)
head["files"][3]["crc32"] = "%08x" % zlib.crc32(data)
manifest["crc32"] = "%08x" % zlib.crc32(json.dumps(head, separators=(",", ":")).encode())
json.dump(manifest, open(path + "manifest.json", "w"))
PYTHON
expect 5 'of layer 1: the loss of iteration 2 is not a finite number; this is the first' "$HEP_RUN" --resume spoilt ep.hepb
expect 5 'the updates of the last 20 iterations, up to 21, were skipped' "$HEP_RUN" -n 50 --skip-nonfinite \
  --resume spoilt ep.hepb
train skipping -n 5 --skip-nonfinite --resume spoilt --losses skipping.csv ep.hepb
grep -q '^skipped: 5 iterations' out || fail "report: $(cat out)"
python3 - <<'PYTHON' || fail "skipped iterations in the report"
import csv, json
run = json.load(open("skipping.json"))
assert run["skipped"] == 5 and run["loss"] == [None] * 5, (run["skipped"], run["loss"])
assert all(row["skipped"] == "1" for row in csv.DictReader(open("skipping.csv")))
PYTHON
train unspoilt -n 4 --skip-nonfinite ep.hepb
train whole -n 4 ep.hepb
[ "$(losses unspoilt)" = "$(losses whole)" ] || fail "--skip-nonfinite changes a training that is finite"

# What is for training is refused where there is none.
for option in --learning-rate=1 --weight-decay=0 --balance=0 --checkpoint=x --resume=x --validate=1 --skip-nonfinite \
  --losses=x; do
  expect 2 "${option%=*} is for training, and the pass of this plan is 'forward'" "$HEP_RUN" "$option" forward.hepb
done
[ ! -e x ] || fail "a refused run has written"
expect 2 '--validation divides the bytes of --data' "$HEP_RUN" --validation 0.2 ep.hepb
expect 2 'holds none out' "$HEP_RUN" --data text --validation 0 --validate 1 ep.hepb
for share in 1 -0.1 half nan ''; do
  expect 2 "validation '$share': expected a share" "$HEP_RUN" --data text --validation="$share" ep.hepb
done
for count in 0 -1 1.5 often 99999999999999999999; do
  expect 2 "validate '$count'" "$HEP_RUN" --validate="$count" ep.hepb
done
expect 2 'not with --validate' "$HEP_RUN" --check -n 1 --validate 1 ep.hepb
expect 2 'does not go with it' "$HEP_RUN" --calibrate - --losses x ep.hepb

# Interrupted while weights are made: soon.
sed 's/hidden = 32/hidden = 512/; s/inner = 48/inner = 4096/; s/layers = 2/layers = 4/; s/512 MB/60 GB/' \
  model.hep >large.hep
expect 0 '' "$HEPC" --domain ep -o large.hepb large.hep
"$HEP_RUN" large.hepb >out 2>err &
large=$!
sleep 1
kill -INT $large 2>/dev/null
begin=$SECONDS
wait $large
code=$?
if grep -q 'of memory' err; then
  echo "too little memory: interruption of large models is not tried"
elif [ $code != 75 ] || ! grep -q 'interrupted' err || [ $((SECONDS - begin)) -gt 10 ]; then
  fail "interrupted while weights are made: $code after $((SECONDS - begin)) s: $(cat err)"
fi
finish
