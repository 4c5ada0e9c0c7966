# House rules that a machine can check: 120 columns, no tabs, no trailing blanks, no unfinished places.
. "$(dirname "$0")/lib.sh"
cd "$HEP_SOURCE" || exit 1
sources=$(find compiler grammar ir backends runtime kernels tests -name '*.[chly]' -o -name '*.def' -o -name '*.cu')
awk 'length > 120 {print FILENAME ":" FNR ": longer than 120 columns"; bad = 1} /\t/ {print FILENAME ":" FNR ": tab"; bad = 1}
  / $/ {print FILENAME ":" FNR ": blank at the end"; bad = 1} END {exit bad}' $sources || fail "layout"
grep -nE '\b(TODO|FIXME|XXX)\b' $sources && fail "unfinished places"
for header in $(find compiler grammar ir backends runtime kernels -name '*.h'); do
  grep -q '#ifndef HEP_' "$header" || fail "$header has no include guard"
done
# The runtime never includes a compiler header, and the IR nothing above it.
grep -nE '#include "(compiler|grammar|backends)/' runtime/* kernels/*/* ir/* 2>/dev/null && fail "a dependency in the wrong direction"
finish
