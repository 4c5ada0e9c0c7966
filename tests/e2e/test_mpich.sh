# With MPICH, where it is installed beside Open MPI: builds without warnings, the communicator passes on one host, and
# results are those of threads.
# builds: fast  seconds: 60
. "$(dirname "$0")/lib.sh"
if ! command -v mpicc.mpich >/dev/null || ! command -v mpiexec.hydra >/dev/null; then
  echo "SKIP: no MPICH (mpicc.mpich, mpiexec.hydra)"
  exit 77
fi
cd "$work" || exit 1
cmake -S "$HEP_SOURCE" -B build -G Ninja -DCMAKE_BUILD_TYPE=Release -DMPI_C_COMPILER="$(command -v mpicc.mpich)" \
  -DHEP_WERROR=ON -DHEP_TESTS=ON >log 2>&1 || { fail "configuring: $(tail -20 log)"; finish; }
cmake --build build -j "$(nproc)" --target hep-run mpi_comm >log 2>&1 || { fail "building: $(tail -30 log)"; finish; }
launch() { # ranks, program...
  timeout 60 mpiexec.hydra -launcher fork -n "$@"
}
launch 4 build/bin/mpi_comm >out 2>err || fail "mpi_comm: $(cat err)"
"$HEPC" --domain dc=1,gpu=2 -o plan.hepb - >/dev/null <<'HEP'
cluster four {
  level dc  { count = 2  bandwidth = 200 Mbit/s  latency = 2 ms }
  level gpu { count = 2  bandwidth = 4 Gbit/s    latency = 10 us }
  device    { compute = 4 GFLOP/s  memory = 512 MB  memory_bandwidth = 1 GB/s }
}
model small {
  layers = 2  hidden = 32  heads = 2  vocabulary = 64
  sequence = 16  batch = 2
  dtype = f32
  moe { experts = 8  top_k = 2  inner = 64  activation = gelu }
}
plan { pass = forward }
HEP
expect 0 '' "$HEP_RUN" plan.hepb --check --iterations 2 --json=threads.json
expect 0 '' launch 4 build/bin/hep-run plan.hepb --check --iterations 2 --json=mpi.json
python3 - <<'PYTHON' || fail "not what threads compute"
import json
threads, mpi = json.load(open("threads.json")), json.load(open("mpi.json"))
assert mpi["communicator"] == "mpi"
for key in ("ranks", "loss", "traffic", "check"):
    assert threads[key] == mpi[key], (key, threads[key], mpi[key])
PYTHON
finish
