# What hepc promises of a rank's memory is what the engine allocates, to the byte: of every sample, for both engines; the
# CUDA engine on the emulation, whose libraries' part is stated apart. Runs end where they allocate: no sample is too
# large.
# builds: fast  seconds: 12
. "$(dirname "$0")/lib.sh"
[ -n "${HEP_RUN_EMULATED:-}" ] || { echo "SKIP: no emulation of CUDA in this build"; exit 77; }
cd "$work" || exit 1
cp -r "$HEP_SOURCE/samples" host
cp "$HEP_SOURCE"/presets/*.hep host
cp -r host cuda
find cuda -name '*.hep' -exec sed -i 's/device *{/device { engine = cuda /' {} +
# There is room for everything, and what is aligned as a rank's memory is says its size and ends the program.
cat >shim.c <<'C'
#define _GNU_SOURCE
#include <dlfcn.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
void *aligned_alloc(size_t alignment, size_t size)
{
    if (alignment != 256)
        return memalign(alignment, size);
    fprintf(stderr, "allocates %zu\n", size);
    _exit(0);
}
FILE *fopen(const char *path, const char *mode)
{
    FILE *(*next)(const char *, const char *) = (FILE * (*)(const char *, const char *)) dlsym(RTLD_NEXT, "fopen");
    return strcmp(path, "/proc/meminfo") == 0 || strncmp(path, "/sys/fs/", 8) == 0 ? NULL : next(path, mode);
}
C
"${CC:-cc}" -shared -fPIC -o shim.so shim.c || fail "no shim"

allocated() { # ENGINE PLAN: bytes of a rank
  if [ "$1" = host ]; then
    LD_PRELOAD=./shim.so "$HEP_RUN" -n 1 --warmup 0 "$2"
  else
    HEP_EMULATION_COUNT_MEMORY=1 "$HEP_RUN_EMULATED" --engine cuda -n 1 --warmup 0 "$2"
  fi 2>&1 >/dev/null | sed -n '/^allocates/{s/[^0-9]*//p;q}'
}

# judge ENGINE ALLOCATED: of plan.json and plan.ir. A communicator is what steps of one stream do in one group; of each,
# NCCL takes 4 MiB for every other member.
cat >judge.py <<'PY'
import json
import re
import sys

engine, allocated = sys.argv[1], int(sys.argv[2] or 0)
with open("plan.json", encoding="utf-8") as file:
    plan = json.load(file)
with open("plan.ir", encoding="utf-8") as file:
    text = file.read()
members = dict(re.findall(r"^group (g\d+) .*# (\d+) members", text, re.M))
meetings = set(re.findall(r"^step .* group (g\d+) .*# (\w+) ", text, re.M))
libraries = 0 if engine == "host" else sum((int(members[group]) - 1) * 4 * 2**20 for group, _ in meetings)
if (plan["engine"], plan["memory_bytes"]) != (engine, allocated + libraries):
    sys.exit(f"{plan['memory_bytes']} bytes promised for {plan['engine']}, {allocated} + {libraries} taken")
PY

compared=0
for path in "$HEP_SOURCE"/samples/*.hep "$HEP_SOURCE"/samples/paper/*.hep; do
  sample=${path#"$HEP_SOURCE/samples/"}
  for engine in host cuda; do
    "$HEPC" "$engine/$sample" -o plan.hepb >/dev/null 2>err || fail "$sample: $(cat err)"
    "$HEPC" plan.hepb --dump=json >plan.json && "$HEPC" plan.hepb --dump=ir >plan.ir || fail "$sample cannot be read"
    grep -q '"abstract":.*true' plan.json && continue
    python3 judge.py "$engine" "$(allocated "$engine" plan.hepb)" 2>err || fail "$sample, $engine: $(cat err)"
    compared=$((compared + 1))
  done
done
[ "$compared" -ge 40 ] || fail "only $compared plans were compared"
# Run by the other engine than the plan was made for, the figures of both are said.
"$HEPC" host/two_dc.hep -o two_dc.hepb >/dev/null || fail "two_dc cannot be compiled"
promised=$("$HEPC" two_dc.hepb --dump=json |
  python3 -c 'import json, sys; print("%.2f" % (json.load(sys.stdin)["memory_bytes"] / 1e9))')
expect 5 "of GPU memory, .*; the plan was made for engine 'host', which takes ${promised/./\\.} GB" \
  "$HEP_RUN_EMULATED" --engine cuda -n 1 two_dc.hepb
finish
