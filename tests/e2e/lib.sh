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

# Has a program sanitizers that take address space, in a library of theirs or inside?
is_sanitized() {
  grep -qE '__[at]san_init' "$1"
}

# What Open MPI's mpirun needs here: to run as root, more ranks than cores, and a folder of its own for every run. In
# one that all share, a run that ends removes what another has just found.
use_mpi() {
  [ ! -e "$work/mpi" ] && command -v mpirun >/dev/null || return 0
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1
  mkdir -p "$work/mpi/bin"
  # By its bare name: Open MPI takes a path as a wish for that installation on all hosts.
  cat >"$work/mpi/bin/mpirun" <<SH
#!/bin/bash
export TMPDIR
TMPDIR=\$(mktemp -d "\${0%/bin/*}/XXXXXX") && exec -a mpirun $(printf %q "$(command -v mpirun)") "\$@"
SH
  chmod +x "$work/mpi/bin/mpirun"
  PATH=$work/mpi/bin:$PATH
}

# Can processes join over MPI, with the plan $1? Then mpirun is ready.
has_mpi() {
  [ -z "${HEP_WITHOUT_MPI:-}" ] && command -v mpirun >/dev/null &&
    ! "$HEP_RUN" --communicator mpi "$1" 2>&1 >/dev/null | grep -q 'built without MPI' || return 1
  use_mpi
  export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0 # MPI keeps what it allocated
}

finish() {
  [ "$failures" -eq 0 ] && echo "all good"
  exit $((failures > 0))
}
