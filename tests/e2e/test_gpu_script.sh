# scripts/test-gpu from its first line to its last, on the emulation of CUDA and with small plans: every part runs, what
# fails or does not hold is reported, a run without time left keeps what it has. It says nothing about a GPU.
# builds: fast  seconds: 20
. "$(dirname "$0")/lib.sh"
[ -n "${HEP_RUN_EMULATED:-}" ] || { echo "SKIP: no emulation of CUDA in this build"; exit 77; }
cd "$work" || exit 1
export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0 # what is ended is not clean
mkdir -p path programs/bin programs/plans

# A machine with a GPU, by the names that the script looks for.
cat >path/nvidia-smi <<'SH'
#!/bin/sh
case "$*" in *compute_cap*) echo 9.0 ;; *driver*) echo 1.0 ;; *) echo 'emulated, 1 MiB' ;; esac
SH
cat >path/compute-sanitizer <<'SH'
#!/bin/sh
while [ "${1#--}" != "$1" ]; do shift 2; done
exec "$@"
SH
# Its programs: the runtime and the products are real, the kernels' figures are made up.
ln -s "$HEP_RUN_EMULATED" programs/bin/hep-run
ln -s "$(dirname "$HEP_RUN_EMULATED")/bench_cuda_products_emulated" programs/bin/bench_cuda_products
ln -s "$(dirname "$HEP_RUN_EMULATED")/bench_cuda_enqueue_emulated" programs/bin/bench_cuda_enqueue
cat >programs/bin/bench_cuda_kernels <<'SH'
#!/bin/sh
cat >"$2" <<'JSON'
{"device": "emulated", "measures": [
  {"name": "permute", "time_s": 1e-3, "bytes_per_s": 8e11, "ratio": 0.8, "to": "copy", "at_least": 0.7, "met": true},
  {"name": "experts", "time_s": 1e-3, "flops": 8e14, "ratio": 0.5, "to": "product", "at_least": 0.8, "met": false}]}
JSON
SH
printf '#!/bin/sh\nexit %d\n' 0 >programs/bin/test_good_device
printf '#!/bin/sh\necho "a kernel is wrong"\nexit %d\n' 1 >programs/bin/test_bad_device
chmod +x path/* programs/bin/*

describe() { # dtype, pass
  cat <<HEP
cluster small {
  level dc  { count = ${3:-2}  bandwidth = 100 Mbit/s  latency = 1 ms }
  device    { compute = 10 GFLOP/s  memory = 1 GB  memory_bandwidth = 5 GB/s }
}
model small {
  layers = 1  hidden = 16  heads = 2  vocabulary = 32
  sequence = 16  batch = 2
  dtype = $1
  moe { experts = 8  top_k = 2  inner = 16  activation = swiglu }
}
plan { pass = $2 }
HEP
}
plan() { # name, domain, dtype, pass, ranks
  describe "$3" "$4" "${5:-2}" >"$1.hep"
  expect 0 '' "$HEPC" --domain "$2" "$1.hep" -o "programs/plans/$1.hepb"
}
plan forward_dc_bf16 dc=1 bf16 forward
plan train_all_f32 dc=2 f32 training
plan layer dc=1 f32 forward 1
plan pair dc=1 f32 forward 2

test_gpu() { # exit code, arguments...
  local code=$1
  shift
  expect "$code" '' env PATH="$work/path:$PATH" "$HEP_SOURCE/scripts/test-gpu" --from programs --programs packed \
    --plans forward_dc_bf16,train_all_f32 --out "$work/found.json" "$@" || cat out
}
test_gpu 1 --faults 1
python3 - <<'PYTHON' || fail "not what was there to find: $(cat found.json out)"
import json
found = json.load(open("found.json"))
by_part = {}
for result in found["results"]:
    by_part.setdefault(result["part"], {})[result["name"]] = result["verdict"]
assert by_part["kernels"] == {"test_good_device": "passed", "test_bad_device": "failed"}
assert set(by_part["plans"].values()) == {"passed"} and len(by_part["plans"]) == 2
assert set(by_part["graph"].values()) == {"passed"} and len(by_part["graph"]) == 2
assert set(by_part["sanitizer"].values()) <= {"passed"}
assert set(by_part["faults"].values()) == {"passed"} and len(by_part["faults"]) == 1, by_part["faults"]
assert set(by_part["laptop"].values()) == {"skipped"} # not brought along: 16 ranks, here
assert [part for part in by_part if part != "nccl"][:4] == ["kernels", "laptop", "faults", "bench"], list(by_part)
assert by_part["calibrate"] == {"one process": "passed", "2 processes": "passed"}
for block in ("one process", "2 processes"):
    block = found["measured"]["calibration, " + block]
    assert "cluster" in block and block.count("1024 rows in ") == 2, block
bench = by_part["bench"]
assert set(bench.values()) == {"passed"} and len(bench) == 7, bench
rows = {row["criterion"]: row["verdict"] for row in found["criteria"]}
assert rows["permute over copy"] == "holds" and rows["experts over product"] == "does not hold"
judged = [row for row in found["criteria"] if row["measured"] is not None]
assert len(judged) >= 6, found["criteria"]
PYTHON
grep -q 'a kernel is wrong' out || fail "why a test failed is not reported"
grep -q 'experts over product.*does not hold' out || fail "what does not hold is not reported"

# A wrong result is a failure; without time left, what there was is kept.
rm programs/bin/hep-run
cat >programs/bin/hep-run <<SH
#!/bin/sh
case "\$*" in *cuda*train*) exec "$HEP_RUN_EMULATED" "\$@" --weight-decay 100 ;; *) exec "$HEP_RUN_EMULATED" "\$@" ;; esac
SH
chmod +x programs/bin/hep-run
test_gpu 1 --only plans --plans train_all_f32
grep -Eq 'train_all_f32 +failed' out || fail "another update is not noticed: $(cat out)"
test_gpu 0 --only kernels,plans --budget 0
grep -q 'out of time' found.json || fail "no word of what was left out"
expect 2 'unknown: cernels' "$HEP_SOURCE/scripts/test-gpu" --only cernels
finish
