# Models read from configuration files: by field names, whatever the family; and what is refused.
# builds: dev  seconds: 15
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
configs=$HEP_SOURCE/tests/data/configs
write() { # config, keys of the model block
  cat >model.hep <<EOF
cluster c {
  level dc   { count = 4  bandwidth = 100 Gbit/s  latency = 5 ms }
  level node { count = 8  bandwidth = 400 Gbit/s }
  level gpu  { count = 8  bandwidth = 3.6 Tbit/s }
  device     { compute = 600 TFLOP/s  memory = 1 TB  memory_bandwidth = 4.8 TB/s }
}
model m from "$1" { sequence = 512  $2 }
plan { pass = forward  capacity = 2 }
EOF
}
read_as() { # config, keys, expected JSON of some model fields
  write "$configs/$1.json" "$2"
  expect 0 '' "$HEPC" --dump=json model.hep
  python3 - "$work/out" "$3" <<'PYTHON' || fail "$1"
import json, sys
model, expected = json.load(open(sys.argv[1]))["model"], json.loads(sys.argv[2])
bad = {key: model[key] for key, value in expected.items() if abs(model[key] - value) > 1e-6 * abs(value)}
if bad:
    sys.exit("got %r, expected %r" % (bad, expected))
PYTHON
}
# Parameters counted by hand: embeddings in and out, final norm; per layer attention and two norms; experts.
read_as plain '' "$(python3 -c '
import json
h, layers, moe = 256, 6, 16 * 3 * 256 * 512 + 256 * 16
attention = 2 * h * 32 * (8 + 2) + 2 * h
total = 2 * 1000 * h + h + layers * (attention + moe)
print(json.dumps({"layers": 6, "moe_layers": 6, "experts": 16, "top_k": 2, "total_parameters": total,
                  "active_parameters": total - layers * 14 * 3 * h * 512}))')"
read_as fine_grained '' "$(python3 -c '
import json
h, expert = 256, 3 * 256 * 128
everywhere = 1000 * h + h + 9 * (2 * h * 64 * (8 + 4) + 2 * h) + 5 * 3 * h * 1024 + 4 * (32 * h + 2 * expert)
print(json.dumps({"layers": 9, "moe_layers": 4, "experts": 32, "top_k": 4, "total_parameters": everywhere + 4 * 32 * expert,
                  "active_parameters": everywhere + 4 * 4 * expert}))')"
read_as latent 'batch = 2' "$(python3 -c '
import json
h, expert = 512, 3 * 512 * 192
attention = h * 96 + 96 * 8 * 48 + h * (64 + 16) + 64 * 8 * (32 + 32) + 8 * 32 * h
everywhere = 2 * 2000 * h + h + 5 * (attention + 2 * h) + 2 * 3 * h * 1536 + 3 * (32 * h + expert)
print(json.dumps({"layers": 5, "moe_layers": 3, "experts": 32, "total_parameters": everywhere + 3 * 32 * expert,
                  "data_bytes": 2 * 512 * 4 * h * 2}))')"
read_as nested '' '{"layers": 4, "moe_layers": 4, "experts": 16, "top_k": 1}'
# What the block says wins.
read_as plain 'layers = 3  moe { top_k = 1 }' '{"layers": 3, "experts": 16, "top_k": 1}'

# ... before a field is asked for, and parameters are counted with it: relu and gelu have two matrices, not three.
small='"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 8, "vocab_size": 1000, "moe_intermediate_size": 64'
mkdir own
read_own() { # JSON text, keys, expected
  printf '%s' "$1" >"$work/own/config.json"
  write "$work/own/config.json" "$2"
  expect 0 '' "$HEPC" --dump=json model.hep
  python3 - "$work/out" "$3" <<'PYTHON' || fail "own config with '$2'"
import json, sys
model, expected = json.load(open(sys.argv[1]))["model"], eval(sys.argv[2], {
    "count": lambda layers, dense, experts, inner, matrices, ffn: 2 * 1000 * 256 + 256
             + layers * (2 * 256 * 32 * 16 + 2 * 256) + dense * matrices * 256 * ffn
             + (layers - dense) * (256 * experts + experts * matrices * 256 * inner)})
bad = {key: model[key] for key, value in expected.items() if model[key] != value}
if bad:
    sys.exit("got %r, expected %r" % (bad, expected))
PYTHON
}
read_own "{$small, \"num_experts\": 8}" 'moe { top_k = 3 }' \
  '{"top_k": 3, "total_parameters": count(6, 0, 8, 64, 3, 0)}'
read_own "{$small, \"num_experts\": 8, \"num_experts_per_tok\": 2}" 'layers = 4  first_dense = 1  inner = 512' \
  '{"layers": 4, "moe_layers": 3, "total_parameters": count(4, 1, 8, 64, 3, 512)}'
read_own "{$small, \"num_experts\": 8, \"num_experts_per_tok\": 2}" 'moe { experts = 16  inner = 32  activation = gelu }' \
  '{"experts": 16, "total_parameters": count(6, 0, 16, 32, 2, 0)}'
read_own "{$small, \"num_experts\": 8, \"num_experts_per_tok\": 2, \"hidden_act\": \"relu\"}" '' \
  '{"total_parameters": count(6, 0, 8, 64, 2, 0)}'
read_own "{$small, \"num_experts\": 8, \"num_experts_per_tok\": 2, \"mlp_only_layers\": [3]}" 'first_dense = 2  inner = 128' \
  '{"moe_layers": 4, "total_parameters": count(6, 2, 8, 64, 3, 128)}'
# What Python writes and JSON lacks, in fields that nobody asks for.
read_own "{$small, \"num_experts\": 8, \"num_experts_per_tok\": 2, \"limits\": [0.0, Infinity, -Infinity, NaN], \"note\": \"NaN \\\" Infinity\"}" '' \
  '{"total_parameters": count(6, 0, 8, 64, 3, 0)}'

refused() { # what, JSON text
  printf '%s' "$2" >bad.json
  write bad.json ''
  expect 3 "$3" "$HEPC" model.hep
}
refused dense '{"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 8, "vocab_size": 10, "intermediate_size": 4}' 'describes a dense model'
refused missing '{"hidden_size": 256, "num_attention_heads": 8, "vocab_size": 10, "num_experts": 8, "moe_intermediate_size": 8}' "gives no number of layers"
grep -q "looked for 'num_hidden_layers', 'n_layer', 'num_layers'" "$work/err" || fail "names that were looked for"
refused no_model '{"name": "something else", "files": []}' 'gives no number of layers'
refused list '[1, 2]' 'not the configuration of a model'
refused broken '{"hidden_size": 256,
  "num_hidden_layers": }' 'bad.json:2:'
refused text '{"hidden_size": "large", "num_hidden_layers": 2}' 'must be a whole number'
refused no_top_k "{$small, \"num_experts\": 8}" 'gives no experts per token'
grep -q "or write 'moe { top_k = ... }' into the block" "$work/err" || fail "how a missing field is given"
refused dense_without_size "{$small, \"num_experts\": 8, \"num_experts_per_tok\": 2, \"first_k_dense_replace\": 1}" 'no feed-forward size for its dense layers'
refused not_finite "{$small, \"num_experts\": NaN, \"num_experts_per_tok\": 2}" "'num_experts' must be a whole number from 0 to 1000000, got one that is not finite"
refused after_infinity "{\"limit\": Infinity, \"hidden_size\": oops}" 'bad.json:1:36: error: not JSON'
# Absurd sizes: an error at once.
start=$(date +%s)
refused layers "$(printf '%s' "{$small, \"num_experts\": 8, \"num_experts_per_tok\": 2}" | sed 's/"num_hidden_layers": 6/"num_hidden_layers": 1000000000/')" 'whole number from 1 to 10000, got 1000000000'
refused long_list "{$small, \"num_experts\": 8, \"num_experts_per_tok\": 2, \"mlp_only_layers\": [$(seq -s, 0 200000)]}" "'mlp_only_layers' lists a layer that is none of the 6"
refused members "{$small, $(seq -s, 200000 | sed -E 's/([0-9]+)/"k\1":1/g')}" '20000[0-9] members are more than the configuration of a model has'
[ $(($(date +%s) - start)) -lt 60 ] || fail "absurd sizes take $(($(date +%s) - start)) s"
refused empty '' 'not JSON'
write nowhere.json ''
expect 3 "cannot read 'nowhere.json'" "$HEPC" model.hep
write "$configs/plain.json" 'moe { experts = 100 }'
expect 3 '100 experts cannot be divided evenly' "$HEPC" --domain dc=1,node=1,gpu=1 model.hep

# What families publish, in invented sizes.
python3 "$HEP_SOURCE/tests/e2e/import_families.py" "$HEPC" "$work/families" || fail "families"

# What no engine executes is planned and simulated, and refused with the reason.
planned() { # keys of the model block, of moe, reason
  cat >planned.hep <<EOF
cluster c { level gpu { count = 2  bandwidth = 1 Gbit/s } device { memory = 1 GB } }
model m { layers = 2  hidden = 32  heads = 2  vocabulary = 64  sequence = 8  dtype = f32  $1
  moe { experts = 4  top_k = 2  inner = 16  $2 } }
plan { pass = forward }
EOF
  expect 0 '' "$HEPC" --simulate planned.hep
  expect 0 '' "$HEPC" planned.hep -o planned.hepb
  expect 3 "$3" "$HEP_RUN" planned.hepb
  expect 0 '' "$HEPC" --dump=ir planned.hepb -o planned.ir
  expect 0 '' "$HEPC" planned.ir -o again.hepb
  cmp -s planned.hepb again.hepb || fail "the text of a plan for '$1 $2' is another plan"
}
planned 'mixer sliding { layers = [1]  window = 4 }' '' "layer 1 mixes tokens by 'sliding'"
planned 'inner = [0, 16]' 'layers = [1]' 'dense layers' # one size for all dense layers, and that is none
planned '' 'weights = fp4' 'experts of 4.25 bits a weight'
planned 'weights = fp8' '' 'dense weights of'
planned '' 'zero_experts = 2' 'zero_experts'
# Groups, lists of layers and a shared expert of its own size are executed, as the reference does it.
cat >executed.hep <<EOF
cluster c { level dc { count = 2  bandwidth = 1 Gbit/s } level gpu { count = 2  bandwidth = 1 Gbit/s } device { memory = 1 GB } }
model m { layers = 5  hidden = 32  heads = 2  vocabulary = 64  sequence = 16  batch = 2  dtype = f32  inner = [48, 0, 0, 48, 0]
  moe { experts = 16  top_k = 3  inner = 16  layers = [1, 2, 4]  shared_inner = 20  groups = 4  group_top_k = 2 } }
plan { pass = forward }
EOF
for domain in ep gather; do
  expect 0 '' "$HEPC" --domain $domain executed.hep -o executed.hepb
  expect 0 '' "$HEP_RUN" --check executed.hepb
done

# Public models, where their configurations are at hand: counts against the published ones.
public=$HEP_SOURCE/../shared/configs
[ -d "$public" ] || echo "SKIP: public configurations are not here"
for config in "$public"/*.json; do
  [ -f "$config" ] || continue
  write "$config" ''
  case $(basename "$config" .json) in
  Qwen3-32B) expect 3 'describes a dense model' "$HEPC" model.hep; continue ;;
  DeepSeek-V3) published='"experts": 256, "top_k": 8, "moe_layers": 58, "total_parameters": 671e9' ;;
  Qwen3-235B-A22B) published='"layers": 94, "total_parameters": 235e9, "active_parameters": 22e9' ;;
  Mixtral-8x7B-v0.1) published='"experts": 8, "top_k": 2, "total_parameters": 46.7e9' ;;
  Qwen3-30B-A3B) published='"layers": 48, "total_parameters": 30.5e9' ;;
  MiniMax-M2.5) published='"experts": 256, "total_parameters": 229e9' ;;
  Llama-4-Scout-17B-16E-Instruct) published='"experts": 16, "top_k": 1, "active_parameters": 17.2e9' ;;
  *) published='' ;;
  esac
  expect 0 '' "$HEPC" --dump=json model.hep
  python3 - "$work/out" "{$published}" <<'PYTHON' || fail "$config"
import json, sys
model = json.load(open(sys.argv[1]))["model"]
bad = {k: model[k] for k, v in json.loads(sys.argv[2]).items() if abs(model[k] / v - 1) > 0.01}
if bad:
    sys.exit("more than 1 %% from the published figures: %r" % bad)
PYTHON
done
finish
