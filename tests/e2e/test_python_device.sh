# hep.torch over NCCL, with libhep as it is installed: the plug-in for GPUs is found beside it and loaded, here one on the
# emulation. Four processes, each with a device of its own, get the same bits as over TCP.
# builds: fast  seconds: 20
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
build=$(dirname "$(dirname "$HEPC")")
[ -e "$build/emulated/hep-library-cuda.so" ] || { echo "SKIP: no emulated plug-in was built"; exit 77; }
python=$("$HEP_SOURCE/scripts/testing/torch_environment.sh" 2>why) || { echo "SKIP: $(cat why)"; exit 77; }
mkdir library plans
cp "$build/lib/libhep.so.0" library && cp "$build/emulated/hep-library-cuda.so" library || exit 1
export HEP_LIBRARY=$work/library/libhep.so.0 PYTHONPATH=$HEP_SOURCE/python PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1
export HEP_EMULATION_ALL_MEMORY=1 HEP_EMULATION_DEVICES=4
cat >model.hep <<'HEP'
cluster two {
  level site { count = 2  bandwidth = 100 Mbit/s  latency = 1 ms }
  level gpu  { count = 2  bandwidth = 800 Mbit/s  latency = 100 us }
  device     { compute = 8 GFLOP/s  memory = 512 MB  memory_bandwidth = 2 GB/s }
}
model tiny {
  layers = 2  hidden = 16  heads = 2  vocabulary = 64  sequence = 12  batch = 1  dtype = f32
  moe { experts = 8  top_k = 2  inner = 8  activation = gelu }
}
plan { pass = training }
HEP
expect 0 '' "$HEPC" model.hep --domain ep -o plans/ep.hepb
expect 0 '' "$HEPC" model.hep --domain "site=2,gpu=1" -o plans/hybrid.hepb
sed 's/^plan {/& migration { codec = delta  ratio = 8 }/' model.hep >delta.hep
expect 0 '' "$HEPC" delta.hep --domain "site=2,gpu=2" -o plans/delta.hepb
expect 0 '' "$python" "$HEP_SOURCE/tests/e2e/python_device.py" plans
grep -qx 'all good' out || fail "$(cat out err)"

# Without the plug-in a communicator of GPUs says what is missing, and the rest works.
rm library/hep-library-cuda.so
cat >without.py <<'PY'
import hep
try:
    hep.Communicator.threads(2, device=0)
    raise AssertionError("a GPU without the plug-in")
except hep.Error as error:
    assert error.status == hep.Status.UNSUPPORTED and "hep-library-cuda.so" in str(error), error
hep.Communicator.threads(2)
PY
expect 0 '' "$python" without.py
finish
