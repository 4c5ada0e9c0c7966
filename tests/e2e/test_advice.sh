# What is said of inputs that do not fit: every advice, followed, makes a plan, and what is said not to help does not.
# builds: fast  seconds: 6
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
write() { # memory, plan keys, sed script
  sed "s/memory = 80 GB/memory = $1/; s/^plan {/plan { recompute = none  ${2:-}/; ${3:-}" "$HEP_SOURCE/samples/two_dc.hep" >input.hep
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
write '4.3 GB'
expect 4 'no plan fits' "$HEPC" input.hep
followed "a smaller batch helps: 'batch = ([0-9]+)'" 's/batch = sequences/batch = VALUE/'
write '4.2 GB' '' 's/batch = sequences/batch = 1/; s/sequence = 256/sequence = 2048/'
expect 4 'no plan fits' "$HEPC" input.hep
followed "'sequence = ([0-9]+)'" 's/sequence = 2048/sequence = VALUE/'
write '20 GB' '' 's/batch = sequences/batch = 256/; s/domain = auto/domain = ep/'
expect 4 'the forced domain does not fit' "$HEPC" input.hep
followed "'(capacity = 2)' in the plan block bounds" 's/^plan {/plan { VALUE/'
followed "'domain = (auto)'" 's/domain = ep/domain = VALUE/'

# What grows with tokens and what does not stands apart.
cat >tokens.hep <<'HEP'
cluster c {
  level node { count = 2  bandwidth = 400 Gbit/s }
  level gpu  { count = 8  bandwidth = 3600 Gbit/s }
  device     { memory = 1.1 GB }
}
model m {
  layers = 4  hidden = 1024  heads = 16  vocabulary = 1000  sequence = 8192
  moe { experts = 64  top_k = 8  inner = 256 }
}
plan { pass = training  recompute = none  domain = ep }
HEP
cp tokens.hep input.hep
expect 4 'the forced domain does not fit' "$HEPC" input.hep
followed "'domain = (auto)'" 's/domain = ep/domain = VALUE/'
followed "'sequence = ([0-9]+)'" 's/sequence = 8192/sequence = VALUE/'
split() { sed -nE "s/.*; ([0-9.]+ [kMG]?B) are gathered weights, their gradients and scratch, ([0-9.]+ [kMG]?B) activations.*/\1 \2/p" err; }
long=$(split)
sed 's/sequence = 8192/sequence = 4096/' tokens.hep >half.hep
expect 4 'does not fit' "$HEPC" half.hep
short=$(split)
# shellcheck disable=SC2086 # two words each
python3 - $long $short <<'PYTHON' || fail "parts that grow with tokens: $long, $short"
import sys
gathered, tokens, gathered_half, tokens_half = (float(sys.argv[i]) * {"MB": 1e6, "GB": 1e9}[sys.argv[i + 1]] for i in (1, 3, 5, 7))
assert abs(gathered_half / gathered - 1) < 0.1 and abs(tokens_half / tokens - 0.5) < 0.05, sys.argv
PYTHON
# Two changes where one is not enough: with more GPUs, each of which owns less, exchanges need a bound.
sed 's/1.1 GB/400 MB/; s/sequence = 8192/sequence = 1024/; s/inner = 256/inner = 2048/; s/domain = ep//' tokens.hep >input.hep
expect 4 'no plan fits' "$HEPC" input.hep
followed "more GPUs help with 'capacity = 2': level 'node' with 'count = ([0-9]+)'" 's/node { count = 2/node { count = VALUE/; s/training/training  capacity = 2/'

# Updates of several micro-batches: what is kept of the forward pass, and how their tokens are cut.
micro() { # memory, plan keys
  sed "s/memory = 512 MB/memory = $1/; s/^  micro_batches = .*/  micro_batches = micro_batches  ${2:-}/" \
    "$HEP_SOURCE/samples/laptop_training.hep" >input.hep
}
# All of them in one lap, since smaller laps would fit.
micro '11 MB' 'lap = micro_batches'
expect 4 'no plan fits' "$HEPC" input.hep
followed "fewer micro-batches help: 'micro_batches = ([0-9]+)'" 's/^let micro_batches = .*/let micro_batches = VALUE/'
cut=$(sed -nE "s/^help: smaller micro-batches help: 'batch = ([0-9]+)' with 'micro_batches = ([0-9]+)'.*/\1 \2/p" err)
[ $((${cut% *} * ${cut#* })) = 32 ] || fail "batch times micro-batches is not what it was: '$cut'"
sed "s/batch = 8/batch = ${cut% *}/; s/^let micro_batches = .*/let micro_batches = ${cut#* }/" input.hep >changed.hep
expect 0 '' "$HEPC" changed.hep
micro '14 MB' 'recompute = none  lap = micro_batches'
expect 4 'no plan fits' "$HEPC" input.hep
followed "recomputing activations helps: 'recompute = (full)'" 's/recompute = none/recompute = VALUE/'

# Laps of one take least: what they miss is said, and enough.
micro '9 MB'
expect 4 'no plan fits: even the smallest: .* in laps of 1 needs ' "$HEPC" input.hep
followed "'memory = ([0-9.]+ MB)'" 's/memory = 9 MB/memory = VALUE/'

# With fewer experts than GPUs each owns a part of one, and more GPUs own less each.
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
plan { pass = training  capacity = 2  recompute = none }
HEP
sed 's/memory = 1 GB/memory = 1.3 GB/' few.hep >input.hep
expect 4 'no plan fits' "$HEPC" input.hep
followed "level 'node' with 'count = ([0-9]+)'" 's/let nodes = 2/let nodes = VALUE/'
expect 4 'no plan fits' "$HEPC" few.hep
# By hand: 16 layers of half an expert, two matrices of 1024 x 4096; 2 + 2 + 12 bytes per parameter.
parts=$(python3 -c 'print("%.3g GB are weights, gradients and optimizer state of 0.5 experts per layer" % (16 * 1024 * 4096 * 16 / 1e9))')
grep -q "help: $parts" err || fail "expected '$parts': $(cat err)"
# ... and where more of them do not help, that is what is said.
write '1 GB'
expect 4 'more GPUs alone do not help' "$HEPC" input.hep
sed 's/level gpu { count = 8/level gpu { count = 16/' input.hep >changed.hep
expect 4 'no plan fits' "$HEPC" changed.hep

# Domains that do not divide the experts: each size that is named does.
cat >odd.hep <<'HEP'
cluster c {
  level node { count = 8  bandwidth = 400 Gbit/s }
  level gpu  { count = 8  bandwidth = 3600 Gbit/s }
}
model m { layers = 2  hidden = 64  heads = 4  vocabulary = 256  sequence = 32  moe { experts = 160  inner = 64 } }
plan { pass = training }
HEP
expect 0 '' "$HEPC" odd.hep
expect 3 '160 experts cannot be divided evenly among 64 domains' "$HEPC" --domain node=1,gpu=1 odd.hep
grep -E "^help: '(node|gpu) = 2' instead of 1 would do" err >sizes
[ "$(grep -c . sizes)" = 2 ] || fail "two sizes: $(cat err)"
expect 0 '' "$HEPC" --domain node=2,gpu=1 odd.hep
expect 0 '' "$HEPC" --domain node=1,gpu=2 odd.hep
finish
