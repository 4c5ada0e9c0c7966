# Every way in which ranks of one process work together, once and briefly: strategies, dtypes, exchanges, codecs,
# checkpoints, validation, failures. Results are other scripts' business; this one is for the build with ThreadSanitizer.
# builds: dev tsan  seconds: 30
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
cat >model.hep <<'HEP'
let type = f32
let how = counted
cluster eight {
  level dc   { count = 2  bandwidth = 1 Gbit/s   latency = 1 ms }
  level node { count = 2  bandwidth = 4 Gbit/s   latency = 50 us }
  level gpu  { count = 2  bandwidth = 16 Gbit/s  latency = 10 us }
  device     { compute = 4 GFLOP/s  memory = 512 MB  memory_bandwidth = 1 GB/s }
}
model small {
  layers = 2  hidden = 32  heads = 4  vocabulary = 256  sequence = 8  batch = 2  dtype = type
  moe { experts = 16  top_k = 2  inner = 32  activation = gelu  shared_experts = 1 }
}
plan { pass = training  capacity = 1.5  exchange = how  migration { MIGRATION } }
training { learning_rate = 0.01  clip = 1 }
HEP
sed 's/migration.*}/}/' model.hep >training.hep
sed 's/pass = training/pass = forward/; /^training/d' training.hep >forward.hep
for codec in 'codec = sr  ratio = 8  shared_every = 2' 'codec = delta  ratio = 8' \
  'codec = delta  ratio = 8  gradient = topk  gradient_ratio = 8' 'gradient = topk  gradient_ratio = 8'; do
  codecs=$((${codecs:-0} + 1))
  sed "s/MIGRATION/$codec/" model.hep >codec$codecs.hep
done

run() { # NAME COMPILER-OPTIONS... -- OPTIONS...: two iterations
  local name=$1 options=()
  shift
  while [ "$1" != -- ]; do
    options+=("$1")
    shift
  done
  expect 0 '' "$HEPC" "${options[@]}" -o plan.hepb "$name.hep" && expect 0 '' "$HEP_RUN" --warmup 0 -n 2 plan.hepb "${@:2}"
}

for domain in ep gather dc=2,node=1,gpu=1 dc=1,node=2,gpu=1 dc=1,node=1,gpu=2; do
  run forward --domain $domain -- --check
  run training --domain $domain --
done
run forward --domain ep --dispatch naive -- --check --routing balanced
run forward --domain gather -D type=bf16 -- --check
run forward --domain dc=2,node=1,gpu=1 -- --emulate-links --trace trace.json --profile profile.json
run training --domain ep --dispatch naive --
run training --domain '0-1:dc=2,node=1,gpu=2,regather' --
run training -O0 --domain '0:dc=2,node=1,gpu=1; 1:dc=1,node=2,gpu=2,regather' --
run training --domain dc=2,node=1,gpu=1 -D type=f16 --
run training --domain dc=1,node=2,gpu=2 -D how=padded --
for codec in $(seq "$codecs"); do
  run codec"$codec" --domain dc=2,node=1,gpu=2 --
  run codec"$codec" --domain '0:dc=2,node=2,gpu=1; 1:dc=1,node=2,gpu=2' -D type=bf16 --
done

# Data, held-out losses, checkpoints while iterations go on, and what comes after them.
seq 4000 >text
run codec3 --domain dc=2,node=1,gpu=1 -- --data text --validate 1 --losses losses.csv --checkpoint kept --every 1
expect 0 '' "$HEP_RUN" -n 2 --data text --resume kept --checkpoint kept --every 1 --skip-nonfinite plan.hepb

# A run that ends before its time: by a loss that is not finite, and by interruption while weights are made.
expect 5 'not a finite number' "$HEP_RUN" -n 20 --learning-rate 1e30 plan.hepb
sed 's/hidden = 32/hidden = 256/; s/inner = 32/inner = 2048/; s/512 MB/60 GB/' training.hep >large.hep
expect 0 '' "$HEPC" --domain ep -o large.hepb large.hep
"$HEP_RUN" large.hepb >out 2>err &
large=$!
sleep 1
kill -INT $large 2>/dev/null
wait $large
code=$?
[ $code = 75 ] && grep -q 'interrupted' err || fail "interrupted while weights are made: $code: $(cat err)"
finish
