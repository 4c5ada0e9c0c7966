# The CUDA engine can always be asked for: a build without it says how to get it, a machine without a GPU that it has
# none. What it computes is tried on an emulation in test_cuda_emulated.sh and on a GPU by scripts/test-gpu.
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
expect 0 '' "$HEPC" "$HEP_SOURCE/samples/laptop.hep" -o plan.hepb
if [ "${HEP_HAS_CUDA:-OFF}" = OFF ]; then
  expect 5 'built without CUDA: install the CUDA toolkit and NCCL, configure with -DHEP_CUDA=ON' \
    "$HEP_RUN" --engine cuda plan.hepb
else
  expect 5 'no CUDA device' env CUDA_VISIBLE_DEVICES= "$HEP_RUN" --engine cuda plan.hepb
  expect 5 'no CUDA device' env CUDA_VISIBLE_DEVICES= WORLD_SIZE=2 RANK=0 MASTER_ADDR=localhost MASTER_PORT=1 \
    "$HEP_RUN" --engine cuda plan.hepb
fi
expect 2 "unknown engine 'cuba': this program has 'host', 'cuda'" "$HEP_RUN" --engine cuba plan.hepb
expect 2 '--communicator mpi goes with --engine host' "$HEP_RUN" --engine cuda --communicator mpi plan.hepb
expect 2 '--communicator nccl goes with --engine cuda' "$HEP_RUN" --communicator nccl plan.hepb
expect 2 "unknown communicator 'rpc'" "$HEP_RUN" --communicator rpc plan.hepb
if ! command -v nvidia-smi >/dev/null; then
  expect 77 '' "$HEP_SOURCE/scripts/test-gpu"
  grep -q '^SKIP: no GPU here' "$work/out" || fail "scripts/test-gpu does not say that there is no GPU"
fi
finish
