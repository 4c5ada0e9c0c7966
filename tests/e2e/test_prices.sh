# Choices within a price of loss: what `auto` takes is the fastest of all that are allowed, and what there is no figure
# of is refused. The figures are those of docs/prices.md.
# builds: fast
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1

python3 - "$HEP_SOURCE" <<'PYTHON' || fail "docs/prices.md and ir/prices.def differ"
import re, sys
table = {}
for line in open(sys.argv[1] + "/ir/prices.def"):
    of = re.match(r"HEP_PRICE\((\w+), \w+?_(\w+), (\d+), ([\d.]+)\)", line)
    if of:
        table[of[1], of[2].lower(), int(of[3])] = float(of[4])
parts = {"weights of experts": "PRICED_EXPERTS", "gradients of experts": "PRICED_GRADIENTS",
         "dense weights": "PRICED_DENSE", "gradients of dense weights": "PRICED_DENSE_GRADIENTS",
         "token rows": "PRICED_TOKENS"}
said = {}
for line in open(sys.argv[1] + "/docs/prices.md"):
    of = re.match(r"\| (\w[\w ]*) \| `(\w+)`(?: (\d+)x)? \|.*\| ([\d.]+) % \|$", line)
    if of:
        said[parts[of[1]], of[2], int(of[3] or 1)] = float(of[4])
assert table and table == said, (set(table.items()) ^ set(said.items()))
PYTHON

cat >base.hep <<'HEP'
cluster two_sites {
  level dc  { count = 2  bandwidth = 20 Mbit/s  latency = 5 ms }
  level gpu { count = 4  bandwidth = 1 Gbit/s   latency = 50 us }
  device    { compute = 2.5 GFLOP/s  memory = 1 GB  memory_bandwidth = 2 GB/s }
}
model study {
  layers = 2  hidden = 128  heads = 4  vocabulary = 128  sequence = 64  batch = 8  dtype = f32
  moe { experts = 8  top_k = 2  inner = 256  activation = gelu }
}
plan { PLAN }
HEP
plan() { # what the plan block says, the file to write
  sed "s/PLAN/$1/" base.hep >"$2"
}
dump() { # the plan, JSON
  "$HEPC" --dump=json "$1" >"$2" || fail "no plan of $1"
}

plan 'max_loss_increase = 0.3 %  migration { codec = auto  gradient = auto  levels = dc }  tokens = auto' auto.hep
dump auto.hep auto.json
"$HEPC" auto.hep -o auto.hepb && "$HEPC" --check auto.hepb || fail "the plan is not good"
"$HEPC" auto.hep | grep -q '^nothing lossy' || fail "the exact plan is not compared with"
# Every combination, said in words: none that is allowed is faster, and all of those that cost more are refused.
for codec in dense sign q4; do
  for gradient in dense q4 ternary; do
    for tokens in full fp8 int8 int4; do
      said="codec = $codec  gradient = $gradient"
      [ "$codec$gradient" = densedense ] || said="$said  levels = dc"
      plan "max_loss_increase = 0.3 %  migration { $said }  tokens = $tokens" "$codec-$gradient-$tokens.hep"
      "$HEPC" --dump=json "$codec-$gradient-$tokens.hep" >"$codec-$gradient-$tokens.json" 2>refused ||
        { grep -q 'costs .* more than 0.3 %' refused && rm "$codec-$gradient-$tokens.json"; } ||
        fail "$(cat refused)"
    done
  done
done
python3 - <<'PYTHON' || fail "not the fastest within the price"
import glob, json
def read(name):
    plan = json.load(open(name))
    return plan["solution"]["iteration_s"], plan["loss_increase"]
auto_s, price = read("auto.json")
others = {name: read(name) for name in glob.glob("*-*-*.json")}
assert 8 <= len(others) < 36, len(others)
assert 0 < price <= 0.003 * (1 + 1e-9), price
assert all(increase <= 0.003 * (1 + 1e-9) for _, increase in others.values())
fastest = min(others, key=lambda name: others[name][0])
assert auto_s <= others[fastest][0] * (1 + 1e-9), (auto_s, fastest, others[fastest])
assert read("dense-dense-full.json")[1] == 0
PYTHON

# A price of nothing leaves everything exact, a large one takes what is fastest.
plan 'max_loss_increase = 0 %  migration { codec = auto  gradient = auto }  dense { codec = auto  gradient = auto }' none.hep
dump none.hep none.json
plan 'migration { codec = dense }' dense.hep
dump dense.hep dense.json
plan 'max_loss_increase = 50 %  dense { codec = auto  gradient = auto }  migration { gradient = auto }' all.hep
dump all.hep all.json
python3 - <<'PYTHON' || fail "prices at the ends"
import json
none, dense, most = (json.load(open(name + ".json")) for name in ("none", "dense", "all"))
assert none["codec"] == none["gradient"] == none["dense"]["codec"] == "dense" and none["loss_increase"] == 0
assert none["solution"]["iteration_s"] == dense["solution"]["iteration_s"]
assert most["dense"]["codec"] != "dense" and most["loss_increase"] > 0
assert most["solution"]["iteration_s"] < dense["solution"]["iteration_s"]
PYTHON
# What is planned without a price says what it costs all the same, where there is a figure.
plan 'migration { codec = sign  gradient = q4 }' sign.hep
"$HEPC" --dump=summary sign.hep | grep -q '^loss: [0-9.]* % more than without' || fail "no price in the summary"
plan 'migration { codec = delta  ratio = 30 }' other.hep
"$HEPC" --dump=summary other.hep | grep -q 'no figure for these weights of experts' || fail "a price from nowhere"
finish
