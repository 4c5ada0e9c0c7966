# What a job reports while it runs, and that it ends when asked: who is slow, where its streams stand, Ctrl-C.
# builds: fast tsan  seconds: 6
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
# The port that all wait for is named, in words and numbers.
cat >ports.hep <<'HEP'
cluster ports {
  level dc   { count = 4  bandwidth = 50 Mbit/s  latency = 1 ms }
  device     { compute = 4 GFLOP/s  memory = 1 GB  memory_bandwidth = 1 GB/s }
  port dc[2] { bandwidth = 5 Mbit/s }
}
model small {
  layers = 2  hidden = 64  heads = 2  vocabulary = 16
  sequence = 4  batch = 16
  dtype = f32
  moe { experts = 8  top_k = 2  inner = 16  activation = relu }
}
plan { pass = forward  domain = ep }
HEP
expect 0 '' "$HEPC" ports.hep -o plan.hepb
expect 0 '' "$HEP_RUN" plan.hepb --emulate-links --iterations 2 --json=run.json
grep -q '^slow link: that of dc\[2\]' "$work/out" || fail "the slow link is not named: $(cat "$work/out")"
python3 -c 'import json
run = json.load(open("run.json"))
assert len(run["rank_times"]) == 4, run["rank_times"]
' || fail "times of ranks in --json"

# SIGUSR1 reports where every rank's streams stand, and the run continues.
expect 0 '' "$HEPC" "$HEP_SOURCE/samples/laptop.hep" -o plan.hepb
"$HEP_RUN" plan.hepb --emulate-links --iterations 100000 >out 2>err &
pid=$!
# Before it is hep-run, the process is a shell, which catches SIGUSR1, too.
until [ "$(cat /proc/$pid/comm)" = "$(basename "$HEP_RUN")" ] &&
  [ $((0x$(awk '/^SigCgt/ { print $2 }' /proc/$pid/status) & 0x200)) != 0 ]; do sleep 0.05; done
for try in $(seq 100); do
  kill -USR1 $pid || break
  sleep 0.2
  grep -Eq "^rank [0-9]+: stream '[a-z]+': step [0-9]+, '[a-z_-]+'.*(under way for|waits for) " err && break
done
[ "$try" -lt 100 ] || fail "SIGUSR1 told no step: $(cat err)"
grep -q '^rank 15: ' err || fail "no word of the last rank: $(cat err)"
kill -0 $pid || fail "SIGUSR1 ended the run"
kill -INT $pid
wait $pid
code=$?
[ $code = 75 ] || fail "run exited with $code after SIGUSR1"
# Ctrl-C ends it cleanly and soon.
"$HEP_RUN" plan.hepb --emulate-links --iterations 100000 >out 2>err &
sleep 2
kill -INT $!
SECONDS=0
wait $!
code=$?
[ $code = 75 ] || fail "interrupted run exited with $code"
[ $SECONDS -le 30 ] || fail "it took $SECONDS s to end"
grep -qi interrupted err || fail "no word of the interruption: $(cat err)"
finish
