# cmake --install into a path with a space: programs run from there, samples, documentation and man pages lie beside them.
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
build=$(dirname "$(dirname "$HEPC")")
prefix="$work/a folder"
expect 0 '' cmake --install "$build" --prefix "$prefix" || finish
expect 0 '' "$prefix/bin/hepc" "$prefix/share/hep/samples/laptop.hep" -o laptop.hepb
expect 0 '' "$prefix/bin/hep-run" --iterations 1 laptop.hepb
for file in README.md language.md running.md; do
  [ -s "$prefix/share/doc/hep/$file" ] || fail "not installed: $file"
done
for program in hepc hep-run; do
  page=$build/man/$program.1
  [ -e "$page" ] || continue # not made under sanitizers, nor without help2man
  cmp "$page" "$prefix/share/man/man1/$program.1" || fail "another man page of $program"
  grep -q '^\.SH NAME' "$page" && grep -qe '--' "$page" || fail "not a man page of $program: $(head "$page")"
done
# Without pages, as after building the programs alone, the rest is installed all the same.
if [ -d "$build/man" ]; then
  sed "s|$build/man/|$work/no/|" "$build/cmake_install.cmake" >install.cmake
  expect 0 '' cmake -DCMAKE_INSTALL_PREFIX="$work/bare" -P install.cmake
  [ -x bare/bin/hepc ] || fail "nothing is installed without man pages"
fi
finish
