# Limits of address space: a job runs in little, products taking turns, or is refused with figures. It never hangs.
# builds: fast  seconds: 3
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
is_sanitized "$HEP_RUN" && { echo "SKIP: sanitizers need more address space than is limited here"; exit 77; }
cat >four.hep <<'HEP'
cluster four {
  level gpu { count = 4  bandwidth = 1 Gbit/s  latency = 1 ms }
  device    { compute = 1 GFLOP/s  memory = 64 MB  memory_bandwidth = 1 GB/s }
}
model small {
  layers = 1  hidden = 128  heads = 2  vocabulary = 32
  sequence = 64  batch = 4
  dtype = f32
  moe { experts = 4  top_k = 2  inner = 128  activation = gelu }
}
plan { pass = forward }
HEP
expect 0 '' "$HEPC" four.hep -o four.hepb || finish
within() { # KIBIBYTES ARGUMENTS...
  (ulimit -v "$1" && exec timeout -s KILL 100 "$HEP_RUN" --quiet "${@:2}")
}

# What the program takes by itself, and four ranks in one process, of which each wants 128 MB for its products.
bash -c 'ulimit -v 800000 && exec "$0" --calibrate - --levels dc=2' "$HEP_RUN" >measured.hep || fail "no calibration"
"$HEP_RUN" --json=free.json four.hepb --quiet -n 3 >out || fail "unlimited"
# Libraries alone take 160 MB more on Debian 13 than on Debian 12.
env OPENBLAS_NUM_THREADS=1 MALLOC_ARENA_MAX=1 "$HEP_RUN" --quiet four.hepb -n 20 >out &
while grep -s VmPeak "/proc/$!/status"; do sleep 0.02; done >peaks
least=$(awk '$2 > most { most = $2 } END { print (most > 450000 ? 440000 : 400000) }' peaks)
for kib in 1500000 800000 700000 600000 500000 "$least"; do
  expect 0 '' within "$kib" --json=limited.json four.hepb -n 3
  python3 -c 'import json; a, b = (json.load(open(f + ".json"))["loss"] for f in ("free", "limited")); assert a == b' ||
    fail "$kib KiB: another loss"
done
# Newer versions of OpenBLAS cannot even be loaded in so little: that ends, too.
loads='hep-run: too little address space is left to this process .ulimit -v. to load OpenBLAS'
needs='hep-run: .* of memory, and 134 MB for matrix products, are needed, [0-9.]+ [kM]B are left to this process'
expect 5 "^($needs|$loads)" within 150000 four.hepb -n 3
expect 5 "left to this process .ulimit -v.: too little to measure products|^$loads" within 150000 --calibrate - --levels dc=2
# With as many threads of OpenBLAS as the user says.
expect 0 '' env OPENBLAS_NUM_THREADS=1 MALLOC_ARENA_MAX=1 bash -c 'ulimit -v 600000 && exec "$0" four.hepb -n 3' "$HEP_RUN"
finish
