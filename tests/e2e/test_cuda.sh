# The CUDA engine can always be asked for: a build without it says how to get it, a machine without a GPU that it has
# none. It is a plug-in that nothing loads before that. What it computes is tried on an emulation in
# test_cuda_emulated.sh and on a GPU by scripts/test-gpu.
# builds: dev fast
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
expect 0 '' "$HEPC" "$HEP_SOURCE/samples/laptop.hep" -o plan.hepb
if [ "${HEP_HAS_CUDA:-OFF}" = OFF ]; then
  expect 5 "CUDA engine is not installed: there is no '.*hep-cuda.so'; it is built where CMake finds a CUDA toolkit" \
    "$HEP_RUN" --engine cuda plan.hepb
else
  expect 0 '' "$HEP_RUN" --version
  plugin=$(sed -n 's/^CUDA engine: //p' out)
  [ -f "$plugin" ] || fail "--version does not name the plug-in: $(cat out)"
  expect 0 '' "$HEP_RUN" --help
  grep -qF "Engine cuda: $plugin" out || fail "--help does not name the plug-in: $(tail -3 out)"
  expect 5 'no CUDA device' env CUDA_VISIBLE_DEVICES= "$HEP_RUN" --engine cuda plan.hepb
  expect 5 'no CUDA device' env CUDA_VISIBLE_DEVICES= WORLD_SIZE=2 RANK=0 MASTER_ADDR=localhost MASTER_PORT=1 \
    "$HEP_RUN" --engine cuda plan.hepb
fi

# ---- the plug-in: programs do without CUDA's libraries; one that is absent, or not the program's, is refused.
for program in "$HEPC" "$HEP_RUN"; do
  ldd "$program" >libraries
  grep -E 'libcu(da|blas)|libnccl' libraries && fail "$program is linked with CUDA"
done
cat >small.hep <<'HEP'
cluster c { level gpu { count = 2  bandwidth = 1 Gbit/s }  device { memory = 100 MB } }
model m { layers = 2  hidden = 32  heads = 2  vocabulary = 64  sequence = 16  moe { experts = 2 } }
plan { pass = forward }
HEP
expect 0 '' "$HEPC" small.hep -o small.hepb
if is_sanitized "$HEP_RUN"; then
  echo "SKIP: sanitizers need more address space than is limited here"
else
  expect 0 '' bash -c "ulimit -v 800000 && exec '$HEP_RUN' --version"
  expect 0 '' timeout 100 bash -c "ulimit -v 800000 && exec '$HEP_RUN' -n 1 small.hepb"
fi

mkdir -p moved/bin moved/lib/hep
cp "$HEP_RUN" moved/bin/hep-run
absent=$(realpath moved/bin)/../lib/hep/hep-cuda.so
expect 0 '' moved/bin/hep-run --version
grep -qF "CUDA engine: not installed (no $absent)" out || fail "not told that there is no plug-in: $(cat out)"
expect 0 '' moved/bin/hep-run -n 1 small.hepb
refused() { # reason
  expect 5 "$1" moved/bin/hep-run --engine cuda small.hepb
}
refused "there is no '$absent'"
echo "not a library" >moved/lib/hep/hep-cuda.so
refused "the CUDA engine cannot be loaded: $absent: .*(ELF|too short)"
if command -v cc >/dev/null; then
  cc -shared -fPIC -o moved/lib/hep/hep-cuda.so -x c - <<<'int something;'
  refused "'$absent' is no plug-in of hep-run: it has no 'hep_cuda_plugin'"
  cc -shared -fPIC -o moved/lib/hep/hep-cuda.so -x c - <<'C'
static const char *plugin = "0.0.9 (interface 0123456789abcdef)";
const void *hep_cuda_plugin(void) { return &plugin; }
C
  refused "'$absent' is of another build, 0.0.9 .*; this hep-run is [0-9.]+ \(interface [0-9a-f]{16}\)"
fi
if [ -f "${plugin:-}" ]; then # beside the program, too
  rm moved/lib/hep/hep-cuda.so
  cp "$plugin" moved/bin
  expect 5 'no CUDA device' env CUDA_VISIBLE_DEVICES= moved/bin/hep-run --engine cuda small.hepb
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
