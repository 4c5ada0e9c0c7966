# Every command of docs/tutorial.md runs, in order and in one shell, and what the text says about them holds.
# builds: fast  seconds: 10
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
page=$HEP_SOURCE/docs/tutorial.md
awk '/^```sh$/ {on = 1; next} /^```$/ {on = 0} on' "$page" >commands.sh
commands=$(grep -cE '^(hepc|hep-run|cat|sed) ' commands.sh)
[ "$commands" -ge 18 ] || fail "the tutorial has $commands commands only: does its form still fit this test?"
mkdir bin
ln -s "$HEPC" bin/hepc
ln -s "$HEP_RUN" bin/hep-run
mkdir folder
(cd folder && PATH=$work/bin:$PATH bash -euo pipefail ../commands.sh) >out 2>err || fail "a command fails: $(cat err)"
grep -q 'check: passed' out || fail "the toy is not checked"
for file in toy.hepb ep.hepb sweep.svg qwen.html qwen.hepb train.hepb measured.hep; do
  [ -s "folder/$file" ] || fail "the tutorial writes no $file"
done
grep -q '^cluster ' folder/measured.hep || fail "no cluster was measured"

# The figures in its text.
expect 0 '' "$HEPC" --dump=json folder/qwen.hepb
cp out qwen.json
python3 - "$page" <<'PYTHON' || fail "the text of the tutorial is not what the plan says"
import json, re, sys
text = " ".join(open(sys.argv[1]).read().split())
plan = json.load(open("qwen.json"))
claimed = float(re.search(r"([\d.]+) times as fast as deduplicated expert parallelism", text).group(1))
memory = float(re.search(r"in less than ([\d.]+) GB of a GPU's memory", text).group(1))
ratio = plan["baselines"]["ep_dedup"]["iteration_s"] / plan["solution"]["iteration_s"]
assert abs(ratio - claimed) < 0.05, (ratio, claimed)
assert memory - 2 < plan["memory_bytes"] / 1e9 < memory, plan["memory_bytes"]
PYTHON
for preset in $(grep -oE '`[a-z0-9_]+\.hep`' "$page" | tr -d '`' | sort -u); do
  [ "$preset" = cluster.hep ] || [ -f "$HEP_SOURCE/presets/$preset" ] || fail "there is no preset $preset"
done
for preset in "$HEP_SOURCE"/presets/*.hep; do
  grep -q "\`$(basename "$preset")\`" "$HEP_SOURCE/docs/language.md" || fail "docs/language.md does not name $preset"
done
finish
