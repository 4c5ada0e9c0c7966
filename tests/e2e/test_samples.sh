# Every sample compiles, to the same bytes on every run, verifies, and survives both round trips:
# binary -> text -> binary and text -> plan -> text.
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
finish
