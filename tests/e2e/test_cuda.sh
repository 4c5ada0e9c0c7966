# The CUDA engine can always be asked for: a build without it says how to get it, a machine without a GPU that it has none.
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
expect 0 '' "$HEPC" "$HEP_SOURCE/samples/laptop.hep" -o plan.hepb
if [ "${HEP_HAS_CUDA:-OFF}" = OFF ]; then
  expect 5 'built without CUDA: install the CUDA toolkit and NCCL, configure with -DHEP_CUDA=ON' \
    "$HEP_RUN" --engine cuda plan.hepb
fi
expect 2 "unknown engine 'cuba': this program has 'host', 'cuda'" "$HEP_RUN" --engine cuba plan.hepb
finish
