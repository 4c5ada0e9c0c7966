# What happened is said: tokens that were dropped, rows that the busiest rank received, settings that changed, a damaged
# checkpoint that was passed over, a disk without space.
# builds: fast  seconds: 8
. "$(dirname "$0")/checkpoint_lib.sh"

# With 4 experts and a top_k of 2, skewed routing sends all 64 tokens of a rank to the same two; a capacity of 1 takes
# 64 * 2 / 4 = 32 for each expert, half of them. Balanced routing sends 32 to each.
sed 's/plan {/plan { capacity = 1  dispatch = naive /; s/experts = 8/experts = 4/' model.hep >half.hep
expect 0 '' "$HEPC" half.hep --domain ep -o half.hepb || finish
expect 0 '' "$HEP_RUN" half.hepb -n 3 --routing skewed --losses half.csv --json=half.json
grep -q '^capacity 1 dropped 50.00 % of what gates chose, at most 50.00 % in a layer' "$work/out" || fail "table: $(cat "$work/out")"
[ "$(grep -c '^layer [01]  *50.00$' "$work/out")" = 2 ] || fail "dropped by layer: $(cat "$work/out")"
python3 -c '
import csv, json
run = json.load(open("half.json"))
assert run["dropped"] == [{"layer": 0, "share": 0.5}, {"layer": 1, "share": 0.5}], run["dropped"]
rows = list(csv.DictReader(open("half.csv")))
# 4 ranks, 64 tokens, 2 experts each, half of them
assert [(r["dropped_layer_0"], r["dropped_layer_1"]) for r in rows] == [("256", "256")] * 3, rows
' || fail "dropped tokens in --json and --losses"
expect 0 '' "$HEP_RUN" half.hepb -n 2 --routing balanced --json=even.json
python3 -c '
import json
run = json.load(open("even.json"))
assert [of["share"] for of in run["dropped"]] == [0, 0], run["dropped"]
for level in run["traffic"]: # all receive alike
    assert level["most_received_rows"] == level["received_rows"] > 0, level
' || fail "what is received of balanced routing"
# Skewed routing sends all to experts 0 and 1, of ranks 0 and 1, both of the first data centre: its ranks receive the 32
# tokens that each of the two ranks of the other one sends to each expert, in 2 layers, and on average half of that.
sed 's/pass = training/pass = forward/; /^training/d' half.hep >forward.hep
expect 0 '' "$HEPC" forward.hep --domain ep -o forward.hepb
expect 0 '' "$HEP_RUN" forward.hepb -n 2 --routing skewed --json=half.json
cp "$work/out" half.out
python3 -c '
import json
dc = json.load(open("half.json"))["traffic"][0]
assert dc["level"] == "dc" and dc["most_received_rows"] == 2 * 2 * 32 and dc["received_rows"] == 2 * 32, dc
' || fail "what the busiest rank receives"
grep -q '^tokens received over dc: 64 rows/GPU on average, 128 by the busiest rank: 2.00 times' half.out || fail "$(cat half.out)"
compile ep --domain ep
expect 0 '' "$HEP_RUN" ep.hepb -n 2 --losses other.csv --json=skewed.json
python3 -c '
import json
run = json.load(open("skewed.json"))
assert "dropped" not in run
' || fail "what is dropped without a capacity"
[ "$(head -n 1 other.csv)" = iteration,loss,validation_loss,learning_rate,skipped,iteration_s ] || fail "$(head -n 1 other.csv)"

# A run that continues with other settings says which; one with the same says nothing.
expect 0 '' "$HEP_RUN" ep.hepb -n 4 --every 2 --checkpoint ck
expect 0 '' "$HEP_RUN" ep.hepb -n 1 --resume ck --json=same.json
[ ! -s "$work/err" ] || fail "the same settings: $(cat "$work/err")"
sed 's/batch = 4/batch = 2/' model.hep >other.hep
expect 0 '' "$HEPC" --domain ep other.hep -o other.hepb
seq 3000 >text.txt
expect 0 'warning: resumed with other settings than before: learning_rate 0.05, was 0.001; batch 2, was 4; data a file, was generated data' \
  "$HEP_RUN" other.hepb -n 1 --resume ck --learning-rate 0.05 --data text.txt --other-data --json=other.json
grep -q '^# settings that are not the checkpoint.s: learning_rate 0.05, was' "$work/out" || fail "report: $(head "$work/out")"
python3 -c '
import json
assert json.load(open("other.json"))["resumed_otherwise"].startswith("learning_rate 0.05, was"), 1
assert "resumed_otherwise" not in json.load(open("same.json"))
' || fail "resumed_otherwise"

# So does one with a plan that trains otherwise: each of these changes losses.
sed 's/dcs = 2/dcs = 1/; s/pass = training/pass = training  micro_batches = 2  tokens = fp8  migration { codec = sr  ratio = 5 }/' \
  model.hep >other.hep
expect 0 '' "$HEPC" --domain gather other.hep -o other.hepb
was='micro_batches 2, was 1; ranks 2, was 4; routing balanced, was learned; codec sr, was dense; ratio 5, was 1; tokens_dispatch fp8, was full; tokens_combine fp8, was full'
expect 0 "warning: resumed with other settings than before: $was\$" "$HEP_RUN" other.hepb -n 1 --resume ck --routing balanced
# Its log cannot have the columns of another plan.
sed 's/pass = training/pass = training  capacity = 2/' model.hep >capped.hep
expect 0 '' "$HEPC" capped.hep --domain ep -o capped.hepb
expect 3 'losses other.csv: its columns are those of a plan with another capacity' "$HEP_RUN" capped.hepb -n 1 --resume ck --losses other.csv
# That of a training that is not resumed is kept beside, or written over where that is asked for.
cp other.csv kept.csv
expect 0 '' "$HEP_RUN" half.hepb -n 1 --losses other.csv
cmp kept.csv other.csv.~1~ && grep -q dropped_layer other.csv || fail "log of another plan: $(ls other.csv*)"
cp kept.csv other.csv
expect 0 '' "$HEP_RUN" half.hepb -n 1 --overwrite --losses other.csv
[[ $(ls other.csv*) == $'other.csv\nother.csv.~1~' ]] && grep -q dropped_layer other.csv || fail "--overwrite: $(ls other.csv*)"
# A loop passes over checkpoints that are damaged, says so, and keeps them; a --resume that is asked for does not.
until6() { "${@:2}" "$HEP_RUN" --until 6 --resume "$1" --checkpoint "$1" --every 2 --losses "$1.csv" ep.hepb; }
until6 whole 2>"$work/err" || fail "until: $(cat "$work/err")"
for what in rank-00001 manifest.json; do
  rm -rf hurt hurt.csv && cp -r ck hurt
  printf x | dd of="hurt/step-000004/$what" bs=1 seek=60 conv=notrunc 2>"$work/err"
  expect 3 "hurt/step-000004/$what: damaged" "$HEP_RUN" -n 1 --resume hurt ep.hepb
  expect 0 "warning: hurt/step-000004/$what: damaged: .*; it is now hurt/step-000004.aside, and the run resumes from hurt/step-000002" until6 hurt
  [ -e hurt/step-000006 ] && [ -e hurt/step-000004.aside ] || fail "what is left: $(ls hurt)"
  [ "$(tail -n 1 hurt.csv | cut -d, -f1,2)" = "$(tail -n 1 whole.csv | cut -d, -f1,2)" ] || fail "continues differently"
done
rm -rf hurt && cp -r ck hurt && rm hurt/step-00000[24]/rank-00003
expect 6 'step-000002/rank-00003: No such file' until6 hurt
[ -e hurt/step-000002 ] || fail "the last of all was moved: $(ls hurt)"
# What others put into a checkpoint stays when that is removed, and ends no run; of a link, the link is removed.
rm -rf hurt && cp -r ck hurt && mv hurt/step-000004 elsewhere && ln -s ../elsewhere hurt/step-000004 && touch hurt/step-000002/note
until6 hurt 2>"$work/err" || fail "a note, a link: $(cat "$work/err")"
expect 0 '' "$HEP_RUN" --until 8 --resume hurt --checkpoint hurt --every 1 ep.hepb
[ "$(find hurt -name note)" = hurt/step-000002.tmp/note ] &&
  [ -e hurt/step-000007/manifest.json ] && [ -e hurt/step-000008/manifest.json ] &&
  [ ! -L hurt/step-000004 ] && [ -e elsewhere/manifest.json ] || fail "a note, a link: $(ls -R hurt elsewhere)"
if has_mpi ep.hepb; then
  rm -rf hurt && cp -r ck hurt && printf x | dd of=hurt/step-000004/rank-00002 bs=1 seek=60 conv=notrunc 2>"$work/err"
  expect 0 'warning: .*hurt/step-000004.aside, and the run resumes from hurt/step-000002' until6 hurt mpirun --oversubscribe -n 4
  [ "$(grep -c '^hep-run' "$work/err")" = 1 ] || fail "MPI: $(cat "$work/err")"
fi

# A disk without space for what will be written is known before anything runs.
bytes=$(($(stat -c %s ck/step-000004/rank-* | paste -sd+)))
if unshare -rm true 2>/dev/null; then
  mkdir disk
  on_disk() { # CHECKPOINTS COMMAND...: with space for so many
    unshare -rm bash -c "mount -t tmpfs -o size=$((bytes * $1 / 1024 + 64))k none disk && \"\$@\"" - "${@:2}"
  }
  expect 6 '^hep-run: .*--checkpoint disk/ck: checkpoints take .* each, .* at once besides what is there; the disk has .* left' \
    on_disk 2 "$HEP_RUN" -n 6 --checkpoint disk/ck --every 1 ep.hepb
  expect 0 '' on_disk 2 "$HEP_RUN" -n 1 --checkpoint disk/ck ep.hepb
  expect 0 '' on_disk 3 "$HEP_RUN" -n 6 --checkpoint disk/ck --every 1 ep.hepb
else
  echo "no user namespaces: a small disk is not tried"
fi
finish
