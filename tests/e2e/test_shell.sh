# Shell scripts are free of what shellcheck knows: unquoted expansions, which a path with a space breaks, above all.
# builds: dev  seconds: 5
. "$(dirname "$0")/lib.sh"
cd "$HEP_SOURCE" || exit 1
command -v shellcheck >/dev/null || { echo "SKIP: no shellcheck"; exit 77; }
is_shell='head -n 1 "$0" | grep -q "^#!.*sh\$"'
mapfile -t scripts < <(find scripts tests .ci -type f \( -name '*.sh' -o -exec sh -c "$is_shell" {} \; \) -print | sort)
[ ${#scripts[@]} -gt 35 ] || fail "only ${#scripts[@]} scripts found"
shellcheck "${scripts[@]}" || fail "see above"
# A fault of that kind is found.
printf '#!/bin/sh\ncat %s\n' "\$1" >"$work/faulty"
shellcheck "$work/faulty" >/dev/null && fail "an unquoted expansion goes unnoticed"
# What shellcheck lets pass: a command that is a variable, with its words, of which one may be a path with a space.
grep -nE '^[[:space:]]*([A-Za-z_]+=[^ (]* )*\$\{?[A-Za-z_]+\}?([[:space:]]|$)' "${scripts[@]}" && fail "an unquoted command"
finish
