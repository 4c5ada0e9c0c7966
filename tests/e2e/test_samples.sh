# Every sample compiles, to the same bytes on every run, verifies, and survives both round trips:
# binary -> text -> binary and text -> plan -> text.
# builds: fast  seconds: 4
. "$(dirname "$0")/lib.sh"
cd "$HEP_SOURCE/samples" || exit 1
count=0
for sample in *.hep paper/*.hep; do
  name=$work/$(basename "$sample" .hep)
  expect 0 '' "$HEPC" "$sample" -o "$name.hepb" || continue
  expect 0 '' "$HEPC" "$sample" -o "$name.2.hepb"
  cmp -s "$name.hepb" "$name.2.hepb" || fail "$sample: two compilations differ"
  expect 0 '' "$HEPC" --check "$name.hepb"
  expect 0 '' "$HEPC" --dump=ir "$name.hepb" -o "$name.ir"
  expect 0 '' "$HEPC" "$name.ir" -o "$name.3.hepb"
  cmp -s "$name.hepb" "$name.3.hepb" || fail "$sample: binary -> text -> binary changed it"
  expect 0 '' "$HEPC" --dump=ir "$name.ir" -o "$name.2.ir"
  cmp -s "$name.ir" "$name.2.ir" || fail "$sample: text -> plan -> text changed it"
  expect 0 '' "$HEPC" --dump=ir "$sample" -o "$name.3.ir"
  cmp -s "$name.ir" "$name.3.ir" || fail "$sample: --dump=ir of the source and of its plan differ"
  expect 0 '' "$HEPC" --dump=ast "$sample" -o "$name.ast.hep"
  expect 0 '' "$HEPC" --dump=summary "$name.hepb"
  grep -q 'plain EP' "$work/out" || fail "$sample: the summary has no comparison"
  expect 0 '' "$HEPC" --dump=json "$name.hepb"
  python3 -m json.tool <"$work/out" >/dev/null || fail "$sample: --dump=json is not JSON"
  size=$(stat -c %s "$name.hepb")
  [ "$size" -lt 1048576 ] || fail "$sample: the plan has $size bytes"
  count=$((count + 1))
done
[ $count -ge 22 ] || fail "only $count samples found"
echo "$count samples"
# Columns are as wide as the names of levels: none is cut off, and figures stand below them.
sed 's/level dc /level datacentre_of_the_north /; s/level gpu /level datacentre_of_the_south /' \
  two_dc.hep >"$work/long.hep"
expect 0 '' "$HEPC" "$work/long.hep"
python3 - "$work/out" <<'PYTHON' || fail "columns of long names: $(cat "$work/out")"
import sys
lines = open(sys.argv[1]).read().split("\n")
head = next(i for i, line in enumerate(lines) if line.startswith("strategy"))
ends = [lines[head].index(name) + len(name) for name in ("datacentre_of_the_north link", "datacentre_of_the_south link")]
for row in lines[head + 2:head + 5]:
    for end in ends:
        assert row[end - 1] == "B" and row[end] == " ", row
assert lines[head + 1][ends[0] - 8:ends[0]] == "sent/GPU"
PYTHON
finish
