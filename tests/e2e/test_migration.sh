# How plans charge compressed migration: bytes of every codec by hand, the choice among codecs, settings of learning.
# builds: dev
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1

cat >base.hep <<'HEP'
cluster c {
  level dc  { count = 2  bandwidth = 100 Mbit/s  latency = 1 ms }
  level gpu { count = 4  bandwidth = 10 Gbit/s  latency = 5 us }
  device { compute = 20 GFLOP/s  memory = 4 GB  memory_bandwidth = 10 GB/s }
}
model m {
  layers = 2  hidden = 64  heads = 4  vocabulary = 256  sequence = 32  batch = 4  dtype = f32
  moe { experts = 16  top_k = 2  inner = 160  activation = swiglu }
}
plan { domain = gather  migration { MIGRATION } }
training { TRAINING }
HEP

# Traffic of a plan, from the rules in docs/cost-model.md; f32, blocks of 4096.
cat >expected.py <<'PYTHON'
import json, sys
plan = json.load(open(sys.argv[1]))
codec, ratio, every, gradient, clip = sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), sys.argv[5], sys.argv[6] == "clip"
coded = sys.argv[7:] or ["dc", "gpu"] # levels that packets cross
elements, own, layers, members = 3 * 64 * 160, 2, 2, {"dc": 2, "gpu": 4}
def bits(block): # bytes of whole blocks, of which an expert of 30720 elements has 7.5
    return (7 * block(4096) + block(2048) + 3) // 4 * 4
def packet(ratio):
    def block(n): # beyond 50x a scale and 2 bytes an element
        return 2 + 2 * int((n * 4 / ratio - 2) / 2) if ratio > 50 else 4 * max(1, int(n * 4 / ratio / 4))
    return bits(block)
packets = {"dense": elements * 4, "sign": bits(lambda n: 2 + n // 8), "q4": bits(lambda n: n // 128 * 66),
           "ternary": bits(lambda n: n // 128 * 28)}
sent = packets.get(codec) or packet(ratio)
home = packets.get(gradient) or packet(float(gradient))
def share(elements): # of the 8 GPUs, rounded up to 8 elements
    return 4 * 8 * -(-elements // 64)
dense = 2 * share(64 + 64 + 4 * 64 * 64 + 64 + 64 + 64 * 16) + share((256 + 32 + 2) * 64)
before = 1
for level in plan["traffic"]:
    n = members[level["level"]]
    around = 2 * (n - 1) / n
    out, back = (sent, home) if level["level"] in coded else (elements * 4, elements * 4)
    reduce = layers * own * before * (n - 1) * back
    if codec == "sr" and every:
        reduce += layers * around * 4 * elements / every
    if clip:
        reduce += around * 4
    want = {"gather_bytes": layers * own * before * (n - 1) * out, "reduce_bytes": reduce, "exchange_bytes": 0,
            "dense_gather_bytes": dense * before * (n - 1), "dense_reduce_bytes": dense * before * (n - 1)}
    for key, value in want.items():
        assert abs(level[key] - value) <= 1e-9 * max(1, value), (level["level"], key, level[key], value)
    before *= n
PYTHON

says() { # pattern, command: it succeeds and prints that
  local pattern=$1
  shift
  expect 0 '' "$@" && { grep -q -- "$pattern" out || fail "'$*' did not print '$pattern'"; }
}

check() { # migration, training, and what expected.py needs
  sed "s/MIGRATION/$1/; s/TRAINING/$2/" base.hep >plan.hep
  shift 2
  expect 0 '' "$HEPC" plan.hep -o plan.hepb
  says 'good' "$HEPC" --check plan.hepb
  "$HEPC" --dump=json plan.hepb >plan.json || fail 'no JSON'
  python3 expected.py plan.json "$@" || fail "traffic: $*"
  "$HEPC" --dump=ir plan.hepb -o plan.ir && "$HEPC" plan.ir -o again.hepb && cmp plan.hepb again.hepb ||
    fail "text and binary differ: $*"
}
check 'codec = dense' '' dense 1 0 dense -
check 'codec = dense' 'clip = 1  warmup = 10' dense 1 0 dense clip
check 'codec = sr  ratio = 50' '' sr 50 16 dense -
check 'codec = sr  ratio = 50  shared_every = 3' 'clip = 0.5' sr 50 3 dense clip
check 'codec = sr  ratio = 7.5  shared_every = 0' '' sr 7.5 0 dense -
check 'codec = delta  ratio = 200' '' delta 200 0 dense -
check 'codec = delta  ratio = 50  gradient = topk  gradient_ratio = 20' '' delta 50 0 20 -
check 'codec = sign' '' sign 1 0 dense -
says 'migration sign 1/31.9' "$HEPC" --dump=summary plan.hepb
check 'codec = sign  gradient = q4  levels = dc' '' sign 1 0 q4 - dc
says 'packets over dc alone' "$HEPC" --dump=summary plan.hepb
check 'gradient = q4' '' dense 1 0 q4 -
check 'codec = sign  gradient = ternary' 'clip = 1' sign 1 0 ternary clip
check 'gradient = topk  gradient_ratio = 100' '' dense 1 0 100 -
check 'gradient = topk' '' dense 1 0 50 -
says 'gradients home as topk 1/50' "$HEPC" --dump=summary plan.hepb
says 'iteration' "$HEPC" --simulate plan.hepb

# Where the codec is open the fastest is taken, and the others are listed.
sed 's/domain = gather//; s/MIGRATION/codec = auto  gradient = topk/; s/TRAINING//' base.hep >auto.hep
says 'migration delta 1/50' "$HEPC" --dump=summary auto.hep
says 'experts by sr' "$HEPC" auto.hep
says 'dense experts' "$HEPC" auto.hep
"$HEPC" --dump=json auto.hep >auto.json
python3 - <<'PYTHON' || fail 'not the fastest codec'
import json
plan = json.load(open("auto.json"))
others = [plan["baselines"][name]["iteration_s"] for name in ("codec_dense", "codec_sr", "codec_sign")]
assert plan["codec"] == "delta" and plan["solution"]["iteration_s"] <= min(others), others
PYTHON
sed 's/100 Mbit/400 Gbit/; s/10 Gbit/400 Gbit/; s/1 ms/1 us/' auto.hep >fast.hep
says 'migration dense' "$HEPC" --dump=summary fast.hep # nothing to gain

sed 's/domain = gather//; s/MIGRATION/codec = delta/; s/TRAINING//' base.hep >delta.hep
expect 3 'keeps its replicas' "$HEPC" --domain '0-1:dc=2,gpu=4,regather' delta.hep
finish
