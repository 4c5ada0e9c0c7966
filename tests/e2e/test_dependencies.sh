# docs/install.md names the packages that scripts/install-deps installs, and the versions that the build asks for; both
# scripts that set machines up refuse what they do not know.
. "$(dirname "$0")/lib.sh"
cd "$HEP_SOURCE" || exit 1
sed -nE 's/^\| ([-a-z0-9, ]+) \|.*/\1/p' docs/install.md | tr -d ' ' | tr , '\n' | sort >"$work/documented"
scripts/install-deps --list | sed -E 's/^libclang-rt-[0-9]+-dev$/libclang-rt-dev/' | sort >"$work/installed"
diff "$work/documented" "$work/installed" || fail "docs/install.md (<) and scripts/install-deps (>) differ"
documented() { sed -nE "s/^\| $1 \|[^|]*\| *([0-9.]+) *\|.*/\1/p" docs/install.md; }
asked() { grep -ohE "$1 [0-9.]+" CMakeLists.txt scripts/cmake/HepPackages.cmake | grep -oE '[0-9.]+$'; }
for pair in "cmake:cmake_minimum_required.VERSION" "flex:find_package.FLEX" "bison:find_package.BISON"; do
  version=$(documented "${pair%%:*}")
  [ -n "$version" ] && [ "$version" = "$(asked "${pair#*:}")" ] ||
    fail "docs/install.md says ${pair%%:*} '$version', the build '$(asked "${pair#*:}")'"
done
expect 2 "unknown option '--lst'" scripts/install-deps --lst
expect 0 '' scripts/fresh --help
expect 2 "unknown option '--users'" scripts/fresh --users root
expect 2 "expected root or sudo" scripts/fresh --user bob
expect 2 "expected demo, install or test" scripts/fresh --command tests
finish
