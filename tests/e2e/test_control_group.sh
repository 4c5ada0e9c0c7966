# A real control group with a limit of memory: a plan that does not fit in it is refused with figures, whether the job is
# in the group with the limit or in one below it; one that fits runs. Files in place of the machine's own are for
# test_limits.sh.
# builds: fast  seconds: 3
. "$(dirname "$0")/lib.sh"
limit=96000000
group=''
remove_groups() {
  for _ in $(seq 100); do
    rmdir "$group/inner" 2>/dev/null
    rmdir "$group" 2>/dev/null
    [ -d "$group" ] || return
    sleep 0.02 # what ended a moment ago may still be in it
  done
}
trap '[ -z "$group" ] || remove_groups; rm -rf "$work"' EXIT

# Hierarchies that may limit memory: KIND MOUNT GROUP, the group being this shell's.
hierarchies() {
  awk '$0 ~ / - cgroup2 / { print "v2", $5 } $0 ~ / - cgroup .*[, ]memory/ { print "v1", $5 }' /proc/self/mountinfo |
    while read -r kind point; do
      if [ "$kind" = v2 ]; then
        echo "v2 $point $(sed -n 's/^0:://p' /proc/self/cgroup)"
      else
        echo "v1 $point $(sed -nE 's/^[0-9]+:([^:]*,)?memory(,[^:]*)?:(.*)/\3/p' /proc/self/cgroup)"
      fi
    done
}
# In this shell's group, or the one above it. Sets `group` and the name of its `limit_file`.
make_group() {
  local kind point own parent
  while read -r kind point own; do
    limit_file=memory.max
    [ "$kind" = v2 ] || limit_file=memory.limit_in_bytes
    for parent in "$point${own%/}" "$point${own%/*}"; do
      group=$parent/hep-test-$$
      mkdir "$group" 2>/dev/null || continue
      # There is no such file where the parent leaves memory to nobody below it.
      [ -e "$group/$limit_file" ] && mkdir "$group/inner" && echo $limit 2>/dev/null >"$group/$limit_file" &&
        bash -c "echo \$\$ >'$group/inner/cgroup.procs'" 2>/dev/null && return
      remove_groups
    done
  done < <(hierarchies)
  group=''
  return 1
}
[ -r /proc/self/mountinfo ] || { echo 'SKIP: no /proc/self/mountinfo'; exit 77; }
make_group || { echo 'SKIP: this user can make no control group that limits memory here'; exit 77; }

cd "$work" || exit 1
cat >model.hep <<'HEP'
let width = 32
cluster two {
  level gpu { count = 2  bandwidth = 4 Gbit/s  latency = 10 us }
  device    { compute = 4 GFLOP/s  memory = 2 GB  memory_bandwidth = 1 GB/s }
}
model m {
  layers = 1  hidden = width  heads = 4  vocabulary = 64  sequence = 16  batch = 1  dtype = f32
  moe { experts = 4  top_k = 2  inner = 4 * width  activation = gelu }
}
plan { pass = training }
HEP
for size in small:32 large:512; do
  expect 0 "" "$HEPC" -D width="${size#*:}" -o "${size%:*}.hepb" model.hep
done
within() { # FOLDER COMMAND...
  bash -c 'echo $$ >"$1/cgroup.procs" && shift && exec "$@"' within "$@"
}
for folder in "$group" "$group/inner"; do
  expect 5 '^hep-run: 2 ranks of [0-9.]+ MB each need [0-9.]+ MB of memory, [0-9.]+ MB are available in this control group' \
    within "$folder" "$HEP_RUN" -n 1 large.hepb
  # What is available is the limit less what the group holds; a plan's ranks take more than that.
  read -r ranks_bytes available < <(sed -nE 's/.* need ([0-9.]+) MB of memory, ([0-9.]+) MB are .*/\1 \2/p' "$work/err")
  awk -v need="${ranks_bytes:-0}" -v has="${available:-0}" -v limit=$limit \
    'BEGIN { exit !(has > 0 && has <= limit / 1e6 && need > has) }' || fail "figures: $(cat "$work/err")"
  expect 0 '' within "$folder" "$HEP_RUN" -n 1 small.hepb
done
# Without the limit the same plan runs: it is the group that refuses it.
expect 0 '' "$HEP_RUN" -n 1 large.hepb
finish
