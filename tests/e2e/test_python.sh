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
# Options for a job that only wants placement: 2 sites of 4 ranks, which share 8 experts.
options() { # domain, framework
  expect 0 '' "$HEPC" "$HEP_SOURCE/samples/laptop_training.hep" --domain "$1" -o placed.hepb
  python3 -m hep.adapters.options placed.hepb "$2" 2>&1
}
[ "$(options ep megatron)" = \
  "--num-experts 8 --moe-router-topk 2 --expert-model-parallel-size 8 --moe-token-dispatcher-type alltoall" ] ||
  fail "options of Megatron: $(options ep megatron)"
[ "$(options site=2,gpu=1 torchtitan)" = "--parallelism.expert_parallel_degree 4" ] ||
  fail "options of torchtitan: $(options site=2,gpu=1 torchtitan)"
[[ $(options site=1,gpu=2 megatron) == *"expert-parallel ranks do not follow one another"* ]] ||
  fail "ranks that do not follow one another: $(options site=1,gpu=2 megatron)"
HEP_LIBRARY=none.so expect 1 'ImportError: libhep cannot be loaded: none.so: .*HEP_LIBRARY' python3 -c 'import hep'
HEP_LIBRARY=libm.so.6 expect 1 'ImportError: libm.so.6 is no libhep of this version: .*hep_abi' python3 -c 'import hep'
# Every function of the header is bound, and none that it has not.
grep -oE 'HEP_API [^;(]*\bhep_[a-z_]+' "$HEP_SOURCE/runtime/hep.h" | grep -oE 'hep_[a-z_]+$' | sort -u >declared
python3 -c 'from hep import _native; print("\n".join(sorted(_native.PROTOTYPES)))' | LC_ALL=C sort >bound
diff <(LC_ALL=C sort declared) bound >differ || fail "the binding and hep.h differ: $(cat differ)"

# As a wheel has it, libhep lies beside the package, and is found there; Debian's package has no library of its own.
build=$(dirname "$(dirname "$HEPC")")
for component in wheel python; do
  prefix=$work/$component
  [ "$component" = wheel ] && prefix=$work/wheel/hep
  expect 0 '' cmake -DCMAKE_INSTALL_PREFIX="$prefix" -DCMAKE_INSTALL_COMPONENT="$component" -P "$build/cmake_install.cmake"
done
cp -r "$HEP_SOURCE"/python/hep/*.py "$work/wheel/hep"
(unset HEP_LIBRARY && PYTHONPATH=$work/wheel expect 0 '' python3 -c 'import hep; print(hep.Plan.load("plan.hepb").ranks)' &&
  grep -qx 8 out) || fail "the package does not find the library beside it"
package=$work/python/lib/python3/dist-packages/hep
[ -f "$package/py.typed" ] && [ -f "$package/torch/session.py" ] && [ ! -e "$package/lib" ] ||
  fail "Debian's package: $(ls "$package")"
PYTHONPATH=$work/python/lib/python3/dist-packages expect 0 '' python3 -c 'import hep' || fail "Debian's package"
finish
