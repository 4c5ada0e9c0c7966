# What a job may take, and what it takes from: limits of control groups, files that are none, data that changes,
# launchers, files of earlier runs.
# builds: fast  seconds: 6
. "$(dirname "$0")/checkpoint_lib.sh"
compile ep --domain ep
mkfifo pipe
: >"$work/err"
refused() { # WHAT COMMAND...
  expect 6 "$1: expected a regular file" timeout -s KILL 10 "${@:2}"
}
for what in pipe /dev/zero; do
  kind='a device'
  [ $what = pipe ] && kind='a pipe'
  refused "$what: $kind" "$HEP_RUN" ep.hepb --data $what
  refused "$what: $kind" "$HEP_RUN" $what
  refused "$what: $kind" "$HEPC" $what
  expect 3 "$what.*: $kind: expected a regular file" timeout -s KILL 10 "$HEPC" --profile $what model.hep
  printf 'model m from "%s" { sequence = 32 }\n' $what >from.hep
  cat model.hep >>from.hep
  expect 3 "$what.*: $kind: expected a regular file" timeout -s KILL 10 "$HEPC" from.hep
  printf 'include "%s"\n' $what >include.hep
  expect 3 "$what.*: not a regular file" timeout -s KILL 10 "$HEPC" include.hep
done
"$HEPC" --domain ep model.hep -o - 2>/dev/null | "$HEP_RUN" -n 1 - >out 2>err || fail "a plan from a pipe: $(cat err)"

# Data is read as it is wanted, and takes no memory. What was cut off meanwhile is missed.
truncate -s 400M large.txt
python3 -c '
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
assert kib < 200000, kib
' "$HEP_RUN" ep.hepb -n 2 --data large.txt || fail "memory for large data"
seq 100000 >text.txt
"$HEP_RUN" ep.hepb -n 100000 --data text.txt --losses cut.csv >out 2>err &
pid=$!
for _ in $(seq 200); do [ "$(wc -l 2>/dev/null <cut.csv || echo 0)" -lt 3 ] || break; sleep 0.02; done
: >text.txt
wait $pid
[ $? = 6 ] && grep -q '^hep-run: rank [0-3]: --data text.txt: the file has become shorter' err || fail "cut data: $(cat err)"

# Started by torchrun, which MPI does not join: refused once, instead of run once per process.
as_torchrun() { # RANK
  expect 2 "$2" env WORLD_SIZE=4 RANK="$1" LOCAL_RANK="$1" MASTER_ADDR=localhost MASTER_PORT=29500 "$HEP_RUN" -n 1 ep.hepb
}
as_torchrun 0 '^hep-run: torchrun started 4 processes, which engine host joins by MPI alone: '
as_torchrun 3 ''
[ ! -s "$work/err" ] || fail "each process says it: $(cat "$work/err")"
expect 0 '' env WORLD_SIZE=1 RANK=0 "$HEP_RUN" -n 1 ep.hepb

# What an earlier run wrote is kept, unless it is to be overwritten; a resumed training continues in its log.
again() { expect 0 '' "$HEP_RUN" ep.hepb -n "$1" --json=run.json --profile run.prof --losses run.csv "${@:2}"; }
again 1
again 2 --checkpoint log
again 1 --resume log
[ "$(tail -n +2 run.csv | wc -l) $(tail -n +2 run.csv.~1~ | wc -l)" = '3 1' ] || fail "rows that were kept: $(wc -l run.csv*)"
[ "$(python3 -c 'import json; print(*(json.load(open("run." + f))["iterations"] for f in ("json", "json.~2~", "json.~1~", "prof", "prof.~2~", "prof.~1~")))')" = '1 2 1 1 2 1' ] ||
  fail "reports that were kept: $(ls)"
again 4 --overwrite
[ "$(echo run.*)" = 'run.csv run.csv.~1~ run.json run.json.~1~ run.json.~2~ run.prof run.prof.~1~ run.prof.~2~' ] ||
  fail "what is overwritten: $(echo run.*)"

# The files of a checkpoint are regular ones, too.
for name in manifest.json equal rank-00001; do
  rm -rf piped && cp -r log piped && rm "piped/step-000002/$name" && mkfifo "piped/step-000002/$name"
  refused "piped/step-000002/$name: a pipe" "$HEP_RUN" ep.hepb -n 1 --resume piped
done

# The limit of the control group that the job is in, or of one above it. Files in place of the machine's own say so.
read -r kind point < <(awk '$0 ~ / - cgroup2 / { print "v2", $5 } $0 ~ / - cgroup .*[, ]memory/ { print "v1", $5; exit }' \
  /proc/self/mountinfo | sort | head -n 1)
if [ -n "${kind:-}" ] && unshare -rm mount -t tmpfs none "$point" 2>/dev/null; then
  if [ "$kind" = v2 ]; then
    group=$(sed -n 's/^0:://p' /proc/self/cgroup) limit=memory.max used=memory.current
  else
    group=$(sed -nE 's/^[0-9]+:([^:]*,)?memory(,[^:]*)?:(.*)/\3/p' /proc/self/cgroup) limit=memory.limit_in_bytes used=memory.usage_in_bytes
  fi
  cat >grouped <<SH
mount -t tmpfs none "$point" && mkdir -p "$point$group" && cd "$point$group" || exit 9
echo "\$1" >"./$limit"
echo 1000000 >"./$used"
cd "$work" && exec "$HEP_RUN" ep.hepb -n 1
SH
  expect 5 '^hep-run: 4 ranks of [0-9]+ kB each need .* of memory, 100 kB are available in this control group' unshare -rm bash grouped 1100000
  expect 0 '' unshare -rm bash grouped 1000000000
else
  echo "no control group for memory, or no namespaces: its limit is not tried"
fi
finish
