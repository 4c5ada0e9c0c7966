#!/usr/bin/env bash
# A Python with PyTorch and transformers, for the tests of hep.torch; one that is made here also has Megatron-Core and
# torchtitan, for those of hep.adapters, where pip finds them.
#   scripts/testing/torch_environment.sh             prints its path; without one, why there is none, and fails
#   scripts/testing/torch_environment.sh --install   makes one in build/torch if there is none: several GB, minutes
# It is the one that HEP_TORCH_PYTHON names, python3 itself, or build/torch. HEP_TORCH_PIP: options of pip for the
# latter, such as an index with builds without CUDA, which are smaller; HEP_TORCH_PIP=none: do not install.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
folder=$PWD/build/torch
mkdir -p build

serves() { # a Python; versions as its packages state them, without importing them
  "$1" - 2>/dev/null <<'PYTHON'
from importlib.metadata import version
import sys
number = lambda name: tuple(int(part) for part in version(name).split("+")[0].split(".")[:2])
sys.exit(not (number("torch") >= (2, 5) and (5, 0) <= number("transformers") < (6, 0)))
PYTHON
}

for python in "${HEP_TORCH_PYTHON:-}" python3 "$folder/bin/python"; do
  [ -n "$python" ] && serves "$python" && command -v "$python" && exit 0
done
if [ "${1:-}" != --install ]; then
  cat build/torch.log 2>/dev/null >&2 ||
    echo "no Python with torch 2.5 and transformers 5: scripts/testing/torch_environment.sh --install makes one" >&2
  exit 1
fi

give_up() {
  rm -rf "$folder"
  echo "PyTorch cannot be installed: $1" | tee build/torch.log >&2
  exit 1
}
[ "${HEP_TORCH_PIP:-}" != none ] || give_up "HEP_TORCH_PIP says so"
free=$(df --output=avail -B1G build | tail -1)
[ "$free" -ge 10 ] || give_up "$free GB are free in build, 10 are needed"
python3 -m venv "$folder" >build/torch.log 2>&1 || give_up "python3 has no venv: $(tail -1 build/torch.log)"
echo "installing PyTorch into build/torch, for tests of hep.torch" >&2
# shellcheck disable=SC2086 # options are words
timeout 1200 "$folder/bin/pip" install --quiet --disable-pip-version-check --no-cache-dir --retries 1 --timeout 20 \
  ${HEP_TORCH_PIP:-} 'torch>=2.5' 'transformers>=5,<6' >build/torch.log 2>&1 ||
  give_up "$(grep -m1 ERROR build/torch.log || echo "pip failed")"
serves "$folder/bin/python" || give_up "pip found no torch 2.5 and transformers 5 for $(python3 --version)"
# What adapters are for: without the many packages that these ask for and their tests do not. They may be missing.
# shellcheck disable=SC2086 # options are words
timeout 300 "$folder/bin/pip" install --quiet --disable-pip-version-check --no-cache-dir --retries 1 --timeout 20 \
  ${HEP_TORCH_PIP:-} --no-deps megatron-core torchtitan spmd_types tyro docstring_parser >>build/torch.log 2>&1
rm -f build/torch.log
echo "$folder/bin/python"
