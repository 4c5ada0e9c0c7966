# Bad input: the right exit code, a message that names the thing, and nothing written.
# builds: dev  seconds: 8
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
out=$work/none.hepb

cluster='cluster c { level dc { count = 2 bandwidth = 1 Gbit/s } level gpu { count = 4 bandwidth = 10 Gbit/s } }'
model='model m { layers = 2 hidden = 64 heads = 4 vocabulary = 64 sequence = 32 dtype = f32 moe { experts = 8 inner = 64 } }'

# refuse CODE PATTERN TEXT [hepc options...]
refuse() {
  local code=$1 pattern=$2 text=$3
  shift 3
  printf '%s\n' "$text" >bad.hep
  expect "$code" "$pattern" "$HEPC" "$@" bad.hep -o "$out"
  [ -e "$out" ] && { fail "'$text' wrote a plan"; rm -f "$out"; }
}

refuse 3 'bad.hep:[0-9]+:[0-9]+: error' "$cluster $model plan { domain = }"
[ "$(grep -c 'error:' err)" -ge 1 ] || fail "no error counted"
refuse 3 'error' "cluster c { level dc { count = = 2 } } model m { layers = } plan { pass = / }"
[ "$(grep -c 'error:' err)" -ge 3 ] || fail "several errors were expected in one run"
refuse 3 "layers" "$cluster ${model/layers/layer}"
refuse 3 "bandwidth" "${cluster/1 Gbit\/s/1 ms} $model"
refuse 3 "bandwidth" "${cluster/1 Gbit\/s/1} $model"
refuse 3 "count" "${cluster/count = 2/count = 0} $model"
refuse 3 "count" "${cluster/count = 2/count = -2} $model"
refuse 3 "experts" "$cluster ${model/experts = 8/experts = 12} plan { domain = { dc = 1 gpu = 1 } }"
refuse 3 "divide|multiple" "$cluster $model plan { domain = { gpu = 3 } }"
refuse 3 "rack" "$cluster $model plan { domain = { rack = 3 } }"
refuse 3 "model" "$cluster"
refuse 3 "cluster" "$model"
refuse 3 "" "${cluster/count = 2/count = 99999999999999999999} $model"
refuse 3 "" "${cluster/count = 2/count = 1e999} $model"
refuse 3 "" "$cluster ${model/hidden = 64/hidden = 2000000000}"
refuse 3 "" ""
refuse 3 "divide|multiple" "$cluster $model" --domain gpu=3
refuse 3 "nosuch" "$cluster $model" -D nosuch=3
head -c 4096 /dev/urandom >garbage.hep
expect 3 'error' "$HEPC" garbage.hep -o "$out"
refuse 4 "memory|needs" "${cluster/level gpu/device { memory = 1 kB \} level gpu} $model"
expect 4 'missing' "$HEPC" bad.hep -o "$out"

expect 2 'unknown output' "$HEPC" --dump=nonsense bad.hep
expect 2 'no input' "$HEPC"
expect 2 "there is no option '--nonsense'; --help lists all" "$HEPC" --nonsense bad.hep
expect 2 "there is no option '--exlain' \(did you mean '--explain'\?\)" "$HEPC" --exlain bad.hep
expect 2 "there is no option '--domian' \(did you mean '--domain'\?\)" "$HEPC" --domian=ep bad.hep
expect 2 "there is no option '--chek' \(did you mean '--check'\?\)" "$HEP_RUN" --chek nowhere.hepb
expect 0 '' "$HEPC" --versio # the beginning of an option is enough, and what follows one that takes a word is none
expect 3 "got '--exlain'" "$HEPC" --domain --exlain "$HEP_SOURCE/samples/laptop.hep"
expect 2 'dispatch' "$HEPC" --dispatch=sometimes bad.hep
expect 6 'nowhere.hep' "$HEPC" nowhere.hep
expect 6 '' "$HEPC" "$HEP_SOURCE/samples/laptop.hep" -o /nonexistent/folder/plan.hepb
expect 6 'nowhere.hepb' "$HEP_RUN" nowhere.hepb
# An output that cannot be written is said before anything is read or searched for.
mkdir folder
for output in missing/out.x folder; do
  expect 6 "hepc: $output: " timeout 5 "$HEPC" --emit=html -o "$output" "$HEP_SOURCE/samples/deepseek_v3.hep"
  expect 6 "hepc: $output: " "$HEPC" --diff nowhere.hep -o "$output" bad.hep
done
expect 6 'standard output: cannot be written' sh -c '"$0" --simulate "$1" >/dev/full' "$HEPC" "$HEP_SOURCE/samples/laptop.hep"
[ -z "$(ls folder)" ] || fail "looking whether an output can be written left something behind"
expect 2 '' "$HEP_RUN" --nonsense
expect 2 '' "$HEP_RUN" --iterations=banana nowhere.hepb
expect 2 '' "$HEP_RUN" --iterations=0 nowhere.hepb

# The input is never overwritten; outputs that would mix are refused; standard input takes every form.
cp "$HEP_SOURCE/samples/laptop.hep" own.hep
cp own.hep own
expect 2 'not be overwritten' "$HEPC" own -o own
expect 2 "'own.hep' would be a binary plan: name it .hepb" "$HEPC" own.hep -o own.hep
cmp -s own.hep "$HEP_SOURCE/samples/laptop.hep" && cmp -s own own.hep || fail "the input was touched"
# No plan under an ending where nobody looks for one.
for pair in 'ir --dump=ir' 'html --emit=html' 'json --emit=json' 'dot --emit=dot' 'csv --sweep' 'svg --sweep'; do
  expect 2 "'out.${pair% *}' would be a binary plan: name it .hepb, or give ${pair#* }" "$HEPC" own.hep -o "out.${pair% *}"
  [ ! -e "out.${pair% *}" ] || fail "out.${pair% *} was written"
done
expect 2 'do not go together' "$HEPC" own.hep --explain --dump=json
expect 2 'does not go together' "$HEPC" own.hep --check -o none.hepb
expect 0 '' "$HEPC" own.hep -o own.hepb
expect 0 '' "$HEPC" --dump=ir own.hepb -o own.ir
for form in own.hep own.hepb own.ir; do
  "$HEPC" - --dump=summary <"$form" >out 2>err || fail "standard input did not take $form: $(cat err)"
done
"$HEPC" own.hep -o - >piped.hepb && cmp -s piped.hepb own.hepb || fail "-o - is not the plan alone"
# What is advised for a plan that does not fit does when typed in.
sed 's/memory = 512 MB/memory = 1 MB/' own.hep >tight.hep
expect 4 'missing' "$HEPC" tight.hep
advice=$(sed -nE "s/.*'(memory = [^']*)'.*/\1/p" err)
[ -n "$advice" ] || fail "no advice"
sed "s/memory = 1 MB/$advice/" tight.hep >advised.hep
expect 0 '' "$HEPC" advised.hep -o advised.hepb
# Of a deep model the first layers tell the memory of all, too little here: still it is said that nothing fits.
cat >deep.hep <<'HEP'
cluster planet {
  level dc  { count = 1000  bandwidth = 10 Gbit/s   latency = 5 ms }
  level gpu { count = 8     bandwidth = 400 Gbit/s  latency = 5 us }
  device    { compute = 300 TFLOP/s  memory = 28.5 GB  memory_bandwidth = 3 TB/s }
}
model deep {
  layers = 61  hidden = 4096  heads = 32  vocabulary = 32000  sequence = 2048  batch = 1  dtype = bf16
  moe { experts = 8000  top_k = 4  inner = 1024  activation = swiglu }
}
plan { pass = training  capacity = 2  recompute = none }
HEP
expect 4 'no plan fits: even the smallest: dc=1 gpu=1 needs' "$HEPC" deep.hep

# What a plan as input cannot answer is refused, not passed over.
for options in '--sweep batch=1,2' '--gap 5' '--time-limit 5' '--prefetch 2' '--dispatch naive' '--explain'; do
  # shellcheck disable=SC2086 # the words of an option
  expect 2 'needs a .hep file' "$HEPC" $options own.hepb
done

# Damaged plans: every truncation point and a bit flip in every kind of place.
expect 0 '' "$HEPC" "$HEP_SOURCE/samples/paper/mix1.hep" -o good.hepb
size=$(stat -c %s good.hepb)
for keep in 0 1 7 8 16 40 $((size / 2)) $((size - 1)); do
  head -c "$keep" good.hepb >cut.hepb
  expect 3 '' "$HEP_RUN" cut.hepb
done
python3 - <<'PYTHON'
data = bytearray(open("good.hepb", "rb").read())
for i, position in enumerate(range(8, len(data), max(1, len(data) // 12))):
    flipped = bytearray(data)
    flipped[position] ^= 1 << (i % 8)
    open("flip%d.hepb" % i, "wb").write(flipped)
PYTHON
for flipped in flip*.hepb; do
  expect 3 '' "$HEPC" --check "$flipped"
  expect 3 '' "$HEP_RUN" "$flipped"
done
expect 3 'abstract|simulated' "$HEP_RUN" good.hepb

# What the fuzz targets of plans begin with are good plans of the present format, but for two.
for seed in "$HEP_SOURCE"/tests/fuzz/corpus/plan_binary/*.hepb "$HEP_SOURCE"/tests/fuzz/corpus/plan_text/*.ir; do
  case $seed in
  */errors.ir) expect 3 'errors.ir:3:16: error' "$HEPC" --check "$seed" ;;
  */ratio.ir) expect 3 "ratio.ir: the plan violates 'claims': the ratio" "$HEPC" --check "$seed" ;;
  *) expect 0 '' "$HEPC" --check "$seed" ;;
  esac
done

# More ranks than this machine can hold.
cat >huge.hep <<'HEP'
cluster c { level dc { count = 64 bandwidth = 1 Gbit/s } level gpu { count = 64 bandwidth = 10 Gbit/s } }
model m { layers = 1 hidden = 1024 heads = 4 vocabulary = 64 sequence = 128 batch = 4 dtype = f32
  moe { experts = 4096 inner = 4096 } }
plan { pass = forward  capacity = 1 }
HEP
expect 0 '' "$HEPC" --domain ep huge.hep -o huge.hepb
expect 5 'rank|memory|thread' timeout 60 "$HEP_RUN" huge.hepb
# Forced runs of layers: taken as they stand, or refused with the place.
two_dc=$HEP_SOURCE/samples/two_dc.hep
expect 0 '' "$HEPC" --dump=json --domain '0-3:dc=2,gpu=8; 4-11:gpu=8,regather' "$two_dc"
python3 -c 'import json, sys
layers = json.load(open(sys.argv[1]))["solution"]["layers"]
assert [(l["domain"], l["regather"]) for l in layers] == 4 * [([2, 8], False)] + 8 * [([1, 8], True)], layers' "$work/out" ||
  fail "forced runs of layers"
expect 0 '' "$HEPC" --dump=json --domain 'site=2,once=site,lap=2' "$HEP_SOURCE/samples/laptop_training.hep"
python3 -c 'import json, sys
plan = json.load(open(sys.argv[1]))
assert (plan["micro_batches"], plan["lap"], plan["solution"]["layers"][-1]["once"]) == (4, 2, "site"), plan["lap"]' "$work/out" ||
  fail "--domain with a lap"
expect 0 '' "$HEPC" --dump=json --domain 'site=2,lap=2,once_gradient=none' "$HEP_SOURCE/samples/laptop_training.hep"
python3 -c 'import json, sys
layer = json.load(open(sys.argv[1]))["solution"]["layers"][-1]
assert (layer["once"], layer["once_gradient"]) == ("all", "none"), layer' "$work/out" || fail "--domain with once_gradient"
expect 3 "over which weights are gathered again" \
  "$HEPC" --domain 'site=2,gpu=2,once=site,once_gradient=gpu,lap=2' "$HEP_SOURCE/samples/laptop_training.hep"
expect 3 "expected a level, 'all' or 'none' after 'once_gradient='" \
  "$HEPC" --domain 'site=2,once_gradient=foo' "$HEP_SOURCE/samples/laptop_training.hep"
expect 3 "'once_gradient' goes with training" "$HEPC" --domain 'dc=2,once_gradient=dc' "$HEP_SOURCE/samples/laptop.hep"
expect 3 "expected layers such as '3' or '0-3', from 0 to 11" "$HEPC" --domain 0-99:dc=2 "$two_dc"
expect 3 "no level 'foo'" "$HEPC" --domain '0-3:dc=2;4:foo=1' "$two_dc"
expect 3 "'auto' goes with nothing else" "$HEPC" --domain 0-3:auto "$two_dc"
expect 3 'gathered again in a forward pass' "$HEPC" --domain dc=2,regather "$HEP_SOURCE/samples/laptop.hep"
expect 2 'takes a number from 0 to 8' "$HEPC" --prefetch 9 "$two_dc"
expect 2 'takes a number' "$HEPC" --gap most "$two_dc"
# Limits of the search: a gap asked for is kept and said, a time limit that strikes is named.
cat >deep.hep <<EOF
cluster c { level dc { count = 4  bandwidth = 1 Gbit/s } level node { count = 4  bandwidth = 10 Gbit/s } level gpu { count = 8  bandwidth = 80 Gbit/s } }
model m { layers = 40 moe { $(python3 -c '
print("data = [%s]" % ", ".join("%d kB" % (2000 + 371 * k * k % 9000) for k in range(40)))
print("expert = [%s]" % ", ".join("%d kB" % (100 + 517 * k % 1900) for k in range(40)))') pre_expert = 3 ms } }
plan { pass = forward }
EOF
expect 0 '' "$HEPC" --dump=json --gap 5 deep.hep
python3 -c 'import json, sys
s = json.load(open(sys.argv[1]))["solution"]
assert "ranked" in s["solver"] or 0 <= s["gap"] <= 0.05, s["gap"]
assert abs(s["bound_s"] - s["iteration_s"] * (1 - s["gap"])) < 1e-9 * s["iteration_s"]' "$work/out" || fail "--gap"
expect 0 '' "$HEPC" --dump=json --time-limit 0.001 deep.hep
grep -q 'time limit' "$work/out" || fail "a time limit that strikes is not named"
# Control characters of either set are shown, not sent to the terminal.
printf 'cluster a { level x\xc2\x9b2J { count = 2 } } # \x1b[2J \xc2\x9b2J \xc3\xa9\n' >control.hep
"$HEPC" --check control.hep >/dev/null 2>err
LC_ALL=C grep -q $'\xc2\x9b\\|\x1b' err && fail "control characters reach the terminal"
grep -q '?2J' err || fail "no question mark in: $(cat err)"
LC_ALL=C grep -q $'\xc3\xa9' err || fail "other characters are lost: $(cat err)"
finish
