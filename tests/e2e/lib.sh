# Helpers of the end-to-end tests. HEPC, HEP_RUN and HEP_SOURCE come from CTest.
set -uo pipefail
: "${HEPC:?}" "${HEP_RUN:?}" "${HEP_SOURCE:?}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

fail() {
  echo "FAIL: $*"
  failures=$((failures + 1))
}

# expect CODE PATTERN COMMAND...: the command exits with CODE and its stderr matches PATTERN.
expect() {
  local code=$1 pattern=$2
  shift 2
  "$@" >"$work/out" 2>"$work/err" </dev/null
  local got=$?
  [ "$got" = "$code" ] || { fail "'$*' exited with $got, not $code"; cat "$work/err"; return 1; }
  [ -z "$pattern" ] || grep -qE -- "$pattern" "$work/err" || { fail "'$*' did not say '$pattern' but:"; cat "$work/err"; return 1; }
}

finish() {
  [ "$failures" -eq 0 ] && echo "all good"
  exit $((failures > 0))
}
