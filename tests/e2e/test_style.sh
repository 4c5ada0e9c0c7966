# House rules that a machine can check: 120 columns, no tabs, no trailing blanks, no unfinished places.
. "$(dirname "$0")/lib.sh"
cd "$HEP_SOURCE" || exit 1
mapfile -t sources < <(find hepc compiler grammar ir backends runtime kernels tests -name '*.[chly]' -o -name '*.def' -o -name '*.cu')
awk 'length > 120 {print FILENAME ":" FNR ": longer than 120 columns"; bad = 1} /\t/ {print FILENAME ":" FNR ": tab"; bad = 1}
  / $/ {print FILENAME ":" FNR ": blank at the end"; bad = 1} END {exit bad}' "${sources[@]}" || fail "layout"
grep -nE '\b(TODO|FIXME|XXX)\b' "${sources[@]}" && fail "unfinished places"
# What a comment refers to is in the tree, or published.
grep -niE 'design (section|document)|design\.md' "${sources[@]}" && fail "references to documents outside of the tree"
while read -r document; do
  [ -f "$document" ] || fail "$document is referred to, but does not exist"
done < <(grep -ohE '\bdocs/[a-z-]+\.md' "${sources[@]}" README.md | sort -u)
for header in "${sources[@]}"; do
  [[ $header != *.h || $header == tests/* ]] || grep -q '#ifndef HEP_' "$header" || fail "$header has no include guard"
done
# Which folders include which others.
never() { # FOLDERS that do not include FOLDERS
  local folders
  read -ra folders <<<"$1"
  grep -rnE --include='*.[chly]' --include='*.cu' "#include \"(${2// /|})/" "${folders[@]}" &&
    fail "a dependency in the wrong direction"
}
never "ir grammar kernels runtime" "hepc compiler backends"
never "ir kernels runtime" "grammar"
never "ir grammar kernels backends compiler hepc" "runtime"
never "compiler" "hepc backends kernels"
never "backends" "hepc compiler grammar kernels"
# A room includes rooms named before it; what lies outside of rooms puts them together.
rooms_in_order() { # folder, rooms...
  local folder=$1 room later
  shift
  while [ $# -gt 1 ]; do
    room=$1
    shift
    later=$(IFS='|' && echo "$*")
    grep -rnE "#include \"$folder/($later)/" "$folder/$room" && fail "$folder/$room includes a room after it"
  done
}
rooms_in_order runtime base comm engine training checkpoint calibrate check job report
rooms_in_order compiler spec frontend model lowering solve placement explain
finish
