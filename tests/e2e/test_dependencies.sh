# docs/install.md names the packages that scripts/install-deps installs, and the versions that the build asks for; both
# scripts that set machines up refuse what they do not know.
# builds: dev
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

# On machines of all kinds, made of stubs: what is there, who runs it, and what is printed.
mkdir "$work/bin"
for tool in bash env grep cut uname sed mktemp rm tail cat; do ln -s "$(command -v $tool)" "$work/bin/$tool"; done
stub() { # NAME LINES...
  printf '%s\n' '#!/bin/bash' "${@:2}" >"$work/bin/$1"
  chmod +x "$work/bin/$1"
}
line='apt-get install -y --no-install-recommends'
stub id 'echo 1000'
expect 1 'this is not Debian or Ubuntu; install by hand: gcc libc6-dev cmake ' env PATH="$work/bin" scripts/install-deps
grep -q 'docs/install.md' "$work/err" || fail "no word of docs/install.md: $(cat "$work/err")"
stub apt-get 'echo "apt-get $*" >>"$0.log"; [ "$1" != install ] || exit 9'
expect 1 "not root, and no sudo; run as root: apt-get update && $line gcc libc6-dev cmake .* clang-tidy\$" \
  env PATH="$work/bin" scripts/install-deps
[ ! -e "$work/bin/apt-get.log" ] || fail "apt-get is run without root"
stub dpkg-query '[[ $3 =~ ^(clang|libclang-rt-dev)$ ]] || echo install ok installed'
expect 0 'going on without what is optional: clang libclang-rt-dev$' env PATH="$work/bin" scripts/install-deps
stub sudo 'exec "$@"'
expect 0 "apt could not install what is missing; run as root: $line clang libclang-rt-dev$" \
  env PATH="$work/bin" scripts/install-deps
stub apt-get '[ "$1" = update ] || printf "dlstatus:1:%s:Retrieving file\npmstatus:clang:5%s.5:Unpacking clang\n" 7.5 1 2'
expect 0 '^  7 % downloading: Retrieving file$' env PATH="$work/bin" scripts/install-deps
[ "$(grep -c '^ 5[0-9] % installing: Unpacking clang$' "$work/err")" = 1 ] || fail "progress: $(cat "$work/err")"
stub dpkg-query 'echo install ok installed'
expect 0 '' env PATH="$work/bin" scripts/install-deps
[ -s "$work/err" ] && fail "all is there, but: $(cat "$work/err")"

expect 2 "unknown option '--lst'" scripts/install-deps --lst
expect 0 '' scripts/fresh --help
expect 2 "unknown option '--users'" scripts/fresh --users root
expect 2 "expected root or sudo" scripts/fresh --user bob
expect 2 "expected demo, install or test" scripts/fresh --command tests
finish
