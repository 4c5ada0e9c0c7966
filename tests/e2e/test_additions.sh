# What an addition takes: a copy of the tree with a local op, a choice key, a codec, a communicator and a column of the
# report more, each by as many edits as docs/architecture.md counts, builds, and every part that must know them does.
# Builds both programs, not optimised, which takes most of the time; what they run is small. Not the CUDA engine's part
# of the op, which is counted alone.
# builds: fast  seconds: 20
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
python3 "$HEP_SOURCE/tests/e2e/additions.py" "$HEP_SOURCE" copy || fail "docs/architecture.md"
launcher=
command -v ccache >/dev/null && launcher=-DCMAKE_C_COMPILER_LAUNCHER=ccache
export CCACHE_BASEDIR=$work CCACHE_NOHASHDIR=1
cmake -S copy -B build -G Ninja -DCMAKE_BUILD_TYPE=None -DCMAKE_C_FLAGS=-O0 $launcher \
  -DHEP_CUDA=OFF -DHEP_MPI=OFF -DHEP_TESTS=OFF >configured 2>&1 || { cat configured; fail "configuring"; finish; }
ninja -C build -j2 bin/hepc bin/hep-run >built 2>&1 || { tail -30 built; fail "building"; finish; }
hepc=$work/build/bin/hepc hep_run=$work/build/bin/hep-run

sample=$work/small.hep
sed 's/layers = 4  hidden = 64/layers = 2  hidden = 32/; s/sequence = 128  batch = 8/sequence = 16  batch = 2/' \
  "$HEP_SOURCE/samples/laptop.hep" >"$sample"
grep -q 'layers = 2' "$sample" && grep -q 'batch = 2' "$sample" || fail "the sample is another one"

# The key: read, checked, suggested, documented, completed, stored in both forms, compared.
sed 's/^plan {/plan { tempo = brisk /' "$sample" >brisk.hep
grep -q 'tempo = brisk' brisk.hep || fail "the sample has no plan block of its own line"
expect 0 '' "$hepc" brisk.hep -o brisk.hepb
"$hepc" --dump=ir brisk.hepb >binary.ir
grep -q '  tempo brisk' binary.ir || fail "the binary form loses the key"
expect 0 '' "$hepc" --dump=ir brisk.hep -o brisk.ir
"$hepc" --dump=ir brisk.ir | cmp - brisk.ir || fail "the text form loses the key"
sed 's/tempo brisk/tempo brisc/' brisk.ir >wrong.ir
expect 3 "expected a tempo for 'tempo'" "$hepc" --dump=ir wrong.ir
expect 3 "did you mean 'brisk'" "$hepc" --dump=ir wrong.ir
sed 's/tempo = brisk/tempo = brisc/' brisk.hep >wrong.hep
expect 3 "'tempo' must be slow or brisk, got 'brisc'" "$hepc" wrong.hep
expect 3 "did you mean 'brisk'" "$hepc" wrong.hep
"$hepc" --help-language >language.md
grep -qF "| \`tempo\` | \`slow\` \`brisk\` | \`slow\` |  | how fast |" language.md || fail "the reference"
"$hepc" --generate=vim >hep.vim
grep 'hepChoice.*|brisk' hep.vim >/dev/null || fail "syntax files"
sed 's/tempo = brisk/tempo = slow/' brisk.hep >slow.hep
expect 0 '' "$hepc" slow.hep -o slow.hepb
"$hepc" --diff slow.hepb brisk.hepb >changes
grep -q 'tempo.*slow.*brisk' changes || fail "comparing plans: $(cat changes)"

# The codec: planned, priced, verified, stored, executed, and checked against the reference.
sed 's/^plan {/plan { migration { codec = mirror  ratio = 10 }/' "$sample" >mirror.hep
expect 0 '' "$hepc" --domain gather mirror.hep -o mirror.hepb
"$hepc" --dump=ir mirror.hepb >mirror.ir
grep -q '  codec mirror  ratio 10' mirror.ir || fail "the plan has no codec"
grep -q ' encode ' mirror.ir || fail "experts are not encoded"
expect 0 '' "$hep_run" mirror.hepb -n 1 --warmup 0 --check --json=mirror.json
grep -q '"pass":.*true' mirror.json || fail "the check of the codec"

# The communicator: named, checked, completed, joined.
"$hep_run" --help | tr -s ' \n' ' ' >help
grep -q 'pigeons: a flock per rank' help || fail "--help of hep-run"
"$hep_run" --generate=bash >completion
grep -q 'threads mpi local nccl pigeons' completion || fail "completion"
expect 5 'the pigeons are asleep' "$hep_run" --communicator pigeons slow.hepb
expect 2 'goes with --engine host' "$hep_run" --engine cuda --communicator pigeons slow.hepb
expect 2 'expected threads, mpi, local, nccl or pigeons' "$hep_run" --communicator hawks slow.hepb

# The column: measured, reduced, in table and JSON.
expect 0 '' "$hep_run" slow.hepb -n 1 --warmup 0 --json=run.json
"$hep_run" slow.hepb -n 1 --warmup 0 >table
grep -q '^traffic .* total  *doubled' table || fail "the table"
python3 - <<'PYTHON' || fail "the JSON"
import json
for level in json.load(open("run.json"))["traffic"]:
    assert level["doubled_bytes"] == 2 * level["bytes"], level
PYTHON
# The op: planned, verified, stored in both forms, executed, of no consequence; an engine without it does not link.
grep -q '^step s[0-9]*  *mirror  *layer 0' brisk.ir || fail "the schedule has no such op"
expect 0 '' "$hepc" --check brisk.hepb
expect 0 '' "$hep_run" slow.hepb -n 1 --warmup 0 --check --json=checked.json
grep -q '"pass":.*true' checked.json || fail "the op changes results"
sed -i '/^bool host_run_mirror(/,/^}/d' copy/runtime/engine/engine_host_ops.c
ninja -C build bin/hep-run >linked 2>&1 && fail "an op without a handler links"
grep -q 'host_run_mirror' linked || fail "no handler is missed: $(tail -5 linked)"
finish
