# hep.torch: small models of Mixtral's and Qwen3-MoE's families on four processes over gloo, against the unchanged model
# in one: loss, logits, gradients, norms, steps, states, bytes; misuse; other families, and what is refused; steps on
# eight. With HEP_TORCH_LONG=1: all families that work, 20 steps. Importing transformers takes most of the time.
# builds: fast  seconds: 60
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
python=$("$HEP_SOURCE/scripts/testing/torch_environment.sh" 2>why) || { echo "SKIP: $(cat why)"; exit 77; }
export HEP_LIBRARY PYTHONPATH=$HEP_SOURCE/python PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
HEP_LIBRARY=$(dirname "$(dirname "$HEPC")")/lib/libhep.so

mkdir mixtral qwen3_moe
common='"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
  "max_position_embeddings": 64, "num_experts_per_tok": 2, "tie_word_embeddings": false, "use_cache": false'
cat >mixtral/config.json <<JSON
{"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "intermediate_size": 48,
  "num_local_experts": 8, $common}
JSON
cat >qwen3_moe/config.json <<JSON
{"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "intermediate_size": 64,
  "moe_intermediate_size": 40, "head_dim": 8, "num_experts": 8, "decoder_sparse_step": 1, "mlp_only_layers": [],
  "norm_topk_prob": true, $common}
JSON
mkdir six && sed 's/"num_local_experts": 8/"num_local_experts": 6/' mixtral/config.json >six/config.json
plan() { # family, name, options of hepc
  local kind=$1 name=$2
  shift 2
  cat >"$kind.hep" <<HEP
let sites = 2
let micro_batches = 1
cluster two {
  level site { count = sites  bandwidth = 100 Mbit/s  latency = 1 ms }
  level gpu  { count = 2  bandwidth = 800 Mbit/s  latency = 100 us }
  device     { compute = 8 GFLOP/s  memory = 512 MB  memory_bandwidth = 2 GB/s }
}
model tiny from "$kind/config.json" { sequence = 12  batch = 2  dtype = f32 }
plan { pass = training  micro_batches = micro_batches }
HEP
  expect 0 '' "$HEPC" "$kind.hep" "$@" -o "$kind.$name.hepb"
}
cat >families.hep <<'HEP'
let sites = 2
let micro_batches = 1
cluster two {
  level site { count = sites  bandwidth = 100 Mbit/s  latency = 1 ms }
  level gpu  { count = 2  bandwidth = 800 Mbit/s  latency = 100 us }
  device     { compute = 8 GFLOP/s  memory = 512 MB  memory_bandwidth = 2 GB/s }
}
model families {
  layers = 2  hidden = 32  heads = 4  vocabulary = 96  sequence = 8  batch = 1  dtype = f32
  moe { experts = 8  top_k = 2  inner = 40  activation = swiglu }
}
plan { pass = training  micro_batches = micro_batches }
HEP
sed 's/dtype = f32/dtype = bf16/' families.hep >bf16.hep
expect 0 '' "$HEPC" families.hep --domain "site=1,gpu=2" -o families.hybrid.hepb
expect 0 '' "$HEPC" families.hep --domain "site=2,gpu=1" -D sites=4 -o steps.float32.1.hepb
expect 0 '' "$HEPC" families.hep --domain "site=2,gpu=1" -D sites=4 -D micro_batches=4 -o steps.float32.4.hepb
expect 0 '' "$HEPC" bf16.hep --domain "site=2,gpu=1" -D sites=4 -o steps.bfloat16.1.hepb
plan mixtral ep --domain ep
plan mixtral eight --domain ep -D sites=4
plan mixtral hybrid --domain "site=1,gpu=2" -D micro_batches=4
plan mixtral unlike --domain "0-1:site=2,gpu=1,regather; 2:site=1,gpu=2; 3:site=2,gpu=2,regather"
plan mixtral gather --domain gather
sed 's/plan { /&migration { codec = q4  gradient = q4 } /' mixtral.hep >packed.hep
expect 0 '' "$HEPC" packed.hep --domain "site=2,gpu=1" -o mixtral.packed.hepb
for capacity in 8 1; do
  sed "s/plan { /&capacity = $capacity  exchange = padded  /" mixtral.hep >padded.hep
  name=$([ $capacity = 1 ] && echo narrow || echo padded)
  expect 0 '' "$HEPC" padded.hep --domain "site=1,gpu=2" -o "mixtral.$name.hepb"
done
plan mixtral slots --domain "site=2,gpu=1,regather" --prefetch 1
plan six pieces --domain "site=1,gpu=2"
plan qwen3_moe ep --domain ep -D micro_batches=4
plan qwen3_moe outside --domain "site=2,gpu=1"
plan qwen3_moe gather --domain gather -D micro_batches=4
plan qwen3_moe naive --domain ep --dispatch naive
# docs/pytorch.md: torchrun prints the losses of one process, and the bytes of the plan.
sample=$HEP_SOURCE/samples/pytorch
expect 0 '' "$HEPC" "$sample/two_sites.hep" -o plan.hepb
train=("$sample/train.py" --data "$HEP_SOURCE/README.md" --steps 3 --sequence 16 --batch 1)
timeout 600 "$python" "$HEP_SOURCE/tests/e2e/python_torch.py" "$work" "${train[@]}" >log 2>&1 ||
  fail "hep.torch: $(tail -60 log)"
cat log
expect 0 '' "$HEPC" qwen3_moe.hep --profile profile.json -o profiled.hepb
for run in alone shared; do
  grep '^step' "$run" >"$run.steps"
  [ "$(wc -l <"$run.steps")" = 3 ] || fail "no three steps: $(cat "$run")"
done
paste alone.steps shared.steps | awk '{ off = $4 - $10; bad += off > 3e-5 || off < -3e-5 } END { exit bad > 0 }' ||
  fail "losses differ: $(paste alone.steps shared.steps)"
grep -q '^site  sent per step: rows 0.00 MB (plan 0.00), experts 3.15 MB (plan 3.15)$' shared ||
  fail "bytes: $(cat shared)"
sed -n 's/.* experts \(.*\) MB (plan \(.*\))$/\1 \2/p' shared | awk '{ bad += $1 != $2 } END { exit bad > 0 || NR != 2 }' ||
  fail "bytes of experts at both levels: $(cat shared)"
grep -q 'sent per step' alone && fail "one process sends nothing: $(cat alone)"
finish
