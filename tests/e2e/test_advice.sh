# What is said of inputs that do not fit: every advice, followed, makes a plan, and what is said not to help does not.
# builds: dev
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
write() { # memory, plan keys, sed script
  sed "s/memory = 80 GB/memory = $1/; s/^plan {/plan { ${2:-}/; ${3:-}" "$HEP_SOURCE/samples/two_dc.hep" >input.hep
}
followed() { # pattern of the help, with one group; sed script with VALUE
  local value
  value=$(sed -nE "s/^help: .*$1.*/\1/p" err)
  [ -n "$value" ] || { fail "no help says '$1': $(cat err)"; return; }
  sed "${2//VALUE/$value}" input.hep >changed.hep
  cp err err.first
  expect 0 '' "$HEPC" changed.hep || fail "'$value' was advised"
  cp err.first err
}
write '4 GB'
expect 4 'needs .* per GPU, the device has 4 GB' "$HEPC" input.hep
followed "'memory = ([0-9.]+ GB)'" 's/memory = 4 GB/memory = VALUE/'
followed "level 'dc' with 'count = ([0-9]+)'" 's/level dc  { count = 2/level dc { count = VALUE/'
followed "level 'gpu' with 'count = ([0-9]+)'" 's/level gpu { count = 8/level gpu { count = VALUE/'
write '4.7 GB'
expect 4 'no plan fits' "$HEPC" input.hep
followed "a smaller batch helps: 'batch = ([0-9]+)'" 's/batch = sequences/batch = VALUE/'
write '4.2 GB' '' 's/batch = sequences/batch = 1/; s/sequence = 256/sequence = 2048/'
expect 4 'no plan fits' "$HEPC" input.hep
followed "'sequence = ([0-9]+)'" 's/sequence = 2048/sequence = VALUE/'
write '20 GB' '' 's/batch = sequences/batch = 256/; s/domain = auto/domain = ep/'
expect 4 'the forced domain does not fit' "$HEPC" input.hep
followed "'(capacity = 2)'" 's/^plan {/plan { VALUE/'
followed "'domain = (auto)'" 's/domain = ep/domain = VALUE/'

# Where every GPU holds one expert more of them need as much each, and that is what is said.
cat >few.hep <<'HEP'
let nodes = 2
cluster c {
  level node { count = nodes  bandwidth = 400 Gbit/s }
  level gpu  { count = 8  bandwidth = 3600 Gbit/s }
  device     { memory = 1 GB }
}
model m {
  layers = 16  hidden = 1024  heads = 16  vocabulary = 1000  sequence = 256
  moe { experts = 8  inner = 4096 }
}
plan { pass = training  capacity = 2 }
HEP
need() { sed -nE 's/.*needs ([0-9.]+ [A-Za-z]+) per GPU.*/\1/p' err; }
expect 4 'no plan fits' "$HEPC" few.hep
first=$(need)
grep -q 'more GPUs do not help: each holds one expert per layer already' err || fail "advice: $(cat err)"
# By hand: 16 layers of one expert, two matrices of 1024 x 4096; 2 + 2 + 12 bytes per parameter.
parts=$(python3 -c 'print("%.3g GB are weights, gradients and optimizer state of 1 expert per layer" % (16 * 2 * 1024 * 4096 * 16 / 1e9))')
grep -q "help: $parts" err || fail "expected '$parts': $(cat err)"
for nodes in 4 8; do
  expect 4 'no plan fits' "$HEPC" -D nodes=$nodes few.hep
  [ "$(need)" = "$first" ] || fail "$nodes nodes need $(need), not $first"
done
# ... and where even one expert each is too much.
write '1 GB'
expect 4 'more GPUs alone do not help' "$HEPC" input.hep
for count in 4 8; do
  sed "s/level gpu { count = 8/level gpu { count = $((count * 4))/" input.hep >changed.hep
  expect 4 'no plan fits' "$HEPC" changed.hep
done

# Experts that cannot be divided: each count of a level that is named divides them.
cat >odd.hep <<'HEP'
let nodes = 8
let gpus = 8
cluster c {
  level node { count = nodes  bandwidth = 400 Gbit/s }
  level gpu  { count = gpus  bandwidth = 3600 Gbit/s }
}
model m { layers = 2  hidden = 64  heads = 4  vocabulary = 256  sequence = 32  moe { experts = 160  inner = 64 } }
plan { pass = forward }
HEP
expect 3 '160 experts cannot be divided evenly among 64 GPUs' "$HEPC" odd.hep
grep -E "^help: level '(node|gpu)'" err >levels
[ "$(grep -c . levels)" = 2 ] || fail "two levels: $(cat err)"
while read -r line; do
  level=$(sed -nE "s/.*level '([a-z]+)'.*/\1/p" <<<"$line")
  grep -oE '[0-9]+ \([0-9]+ GPUs\)' <<<"$line" | while read -r count total _; do
    expect 0 '' "$HEPC" --dump=json -D "${level}s=$count" odd.hep || echo "$level = $count" >>bad
    python3 -c "import json; assert json.load(open('out'))['cluster']['gpus'] == ${total#(}" || echo "$level = $count $total" >>bad
  done
done <levels
[ ! -e bad ] || fail "advised in vain: $(cat bad)"
finish
