#!/bin/bash
# What the language can say together: descriptions drawn at random are planned, or refused with a reason, and what is
# planned computes what the dense reference and the plainest plan compute (combinations.py). First what such draws found.
# builds: fast  seconds: 10
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1

# Ports that differ, and micro-batches that take no turns: where workers stand was forgotten.
cat >ports.hep <<'E2'
cluster found {
  level dc { count = 3  bandwidth = 100 Mbit/s  latency = 1 ms }
  level gpu { count = 2  bandwidth = 10 Gbit/s }
  port dc[1] { bandwidth = 20 Mbit/s }
  device { compute = 20 GFLOP/s  memory = 8 GB }
}
model found {
  layers = 3  hidden = 16  heads = 2  vocabulary = 16  sequence = 4  batch = 2  dtype = f32
  moe { experts = 8  top_k = 2  inner = 8 }
}
plan { micro_batches = 4 }
E2
expect 0 '' "$HEPC" ports.hep -o ports.hepb
expect 0 '' "$HEP_RUN" --quiet --check --warmup 0 -n 1 ports.hepb

# In the first iteration `sr` travels whole: the reference decoded it all the same.
cat >whole.hep <<'E2'
cluster found {
  level dc { count = 2  bandwidth = 100 Mbit/s }
  level gpu { count = 2  bandwidth = 10 Gbit/s }
  device { memory = 8 GB }
}
model found {
  layers = 3  hidden = 16  heads = 2  vocabulary = 16  sequence = 4  batch = 2  dtype = f32
  moe { experts = 8  top_k = 2  inner = 8 }
}
plan { domain = gather  whole_iterations = 1  migration { codec = sr  ratio = 50 } }
E2
expect 0 '' "$HEPC" whole.hep -o whole.hepb
expect 0 '' "$HEP_RUN" --quiet --check --warmup 0 -n 1 whole.hepb

# One GPU exchanges nothing: what is left of that by rounding is not less than nothing.
cat >alone.hep <<'E2'
cluster found {
  level gpu { count = 1  bandwidth = 5 Gbit/s }
  device { compute = 20 GFLOP/s  memory = 8 GB  memory_bandwidth = 800 GB/s }
}
model found {
  layers = 2  hidden = 32  heads = 4  kv_heads = 1  vocabulary = 16  sequence = 8  batch = 4  dtype = f32  first_dense = 1
  moe { experts = 24  top_k = 4  inner = 8  activation = relu }
}
plan { micro_batches = 6  bucket = 2  dense { codec = q4  gradient = q4 } }
E2
expect 0 '' "$HEPC" alone.hep -o alone.hepb

# The embedding, gathered again, waits for memory where nothing else does: the search passed over that.
cat >again.hep <<'E2'
cluster found {
  level gpu { count = 4  bandwidth = 5 Gbit/s  latency = 5 ms }
  device { compute = 20 GFLOP/s  memory = 8 GB  memory_bandwidth = 800 GB/s }
}
model found {
  layers = 6  hidden = 16  heads = 1  vocabulary = 50  sequence = 4  batch = 4  dtype = f16
  moe { experts = 6  top_k = 2  inner = 32 }
}
plan { micro_batches = 2  once_embedding = none  bucket = 8 }
E2
expect 0 '' "$HEPC" again.hep -o again.hepb

python3 "$HEP_SOURCE/tests/e2e/combinations.py" "$HEPC" "$HEP_RUN" . --count 120 --check-every 4 >combinations.txt ||
  fail "$(cat combinations.txt)"
grep -q ' planned' combinations.txt || fail "nothing is planned: $(cat combinations.txt)"
finish
