# The Python package: what it says of a plan, without PyTorch; its errors; that its structs are the header's.
# builds: fast  seconds: 4
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
export HEP_LIBRARY PYTHONPATH=$HEP_SOURCE/python PYTHONDONTWRITEBYTECODE=1
HEP_LIBRARY=$(dirname "$(dirname "$HEPC")")/lib/libhep.so

expect 0 '' "$HEPC" "$HEP_SOURCE/samples/laptop_training.hep" --domain "site=1,gpu=2" -o plan.hepb || finish
expect 0 '' "$HEPC" --emit=layout plan.hepb -o plan.json
python3 "$HEP_SOURCE/tests/e2e/python_plan.py" plan.hepb plan.json "$HEP_SOURCE/tests/golden/library/sizes" ||
  fail "hep.Plan"
HEP_LIBRARY=none.so expect 1 'ImportError: libhep cannot be loaded: none.so: .*HEP_LIBRARY' python3 -c 'import hep'
HEP_LIBRARY=libm.so.6 expect 1 'ImportError: libm.so.6 is no libhep of this version: .*hep_abi' python3 -c 'import hep'
# Every function of the header is bound, and none that it has not.
grep -oE 'HEP_API [^;(]*\bhep_[a-z_]+' "$HEP_SOURCE/runtime/hep.h" | grep -oE 'hep_[a-z_]+$' | sort -u >declared
python3 -c 'from hep import _native; print("\n".join(sorted(_native.PROTOTYPES)))' | LC_ALL=C sort >bound
diff <(LC_ALL=C sort declared) bound >differ || fail "the binding and hep.h differ: $(cat differ)"
finish
