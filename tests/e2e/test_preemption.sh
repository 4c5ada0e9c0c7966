# Runs that are told to end: a signal ends the iteration, leaves a checkpoint and exits with 75, a second one ends at
# once; put back into the queue, or killed at any instant, they continue as if nothing had happened.
# builds: fast  seconds: 30
# Many short runs. HEP_KILLS: how often runs are killed, of threads and of processes.
. "$(dirname "$0")/checkpoint_lib.sh"
. "$(dirname "$0")/mpi_lib.sh"
compile ep --domain ep
kills=${HEP_KILLS:-6}
total=300
seq 5000 >text.txt
run=("$HEP_RUN" --learning-rate 0.01 --quiet --data text.txt)
expect 0 '' "${run[@]}" --until $total --losses whole.csv ep.hepb || finish

# Rows 1.. of a log of losses, each once, with the losses of the run that was not interrupted; prints how many.
cat >rows.py <<'PYTHON'
import csv, sys
whole = list(csv.DictReader(open("whole.csv")))
rows = list(csv.DictReader(open(sys.argv[1])))
assert [int(r["iteration"]) for r in rows] == list(range(1, len(rows) + 1)), [r["iteration"] for r in rows]
assert [r["loss"] for r in rows] == [r["loss"] for r in whole[:len(rows)]], "losses differ"
print(len(rows))
PYTHON

caught() { # PID NUMBER: waits until that process catches the signal
  for _ in $(seq 200); do
    local mask
    mask=$(sed -n 's/^SigCgt:\s*//p' "/proc/$1/status" 2>/dev/null)
    [ -n "$mask" ] && (((0x${mask: -8} >> ($2 - 1) & 1) == 1)) && [ "$(cat "/proc/$1/comm")" = hep-run ] && return
    sleep 0.02
  done
  fail "signal $2 is not caught"
}

# ended NAME CODE: what a signal leaves: one message, one complete checkpoint, a row for each of its iterations.
ended() {
  local at rows
  [ "$2" = 75 ] || fail "$1: exit code $2: $(cat err)"
  [ "$(grep -c '^hep-run:' err)" = 1 ] || fail "$1: not one message: $(cat err)"
  at=$(sed -nE "s/^hep-run: interrupted by SIG$1 after iteration ([0-9]+) of [0-9]+: its checkpoint is in 'ck', .*/\1/p" err)
  [ -e "ck/step-$(printf %06d "${at:-0}")/manifest.json" ] || fail "$1: no checkpoint of '$at': $(ls ck; cat err)"
  [ "$(find ck -name '*.tmp' | wc -l)" = 0 ] || fail "$1: left $(ls ck)"
  rows=$(python3 rows.py losses.csv) || fail "$1: losses.csv"
  [ "$rows" = "$at" ] || fail "$1: $rows rows, $at iterations"
}

# What this shell was told to ignore (by nohup, or as a job in the background) its children do, too.
ignored=$(sed -n 's/^SigIgn:\s*//p' /proc/$$/status)
endings=()
for signal in TERM INT HUP; do
  (((0x${ignored: -8} >> ($(kill -l $signal) - 1) & 1) != 0)) || endings+=("$signal")
done
for signal in "${endings[@]}" USR2; do
  rm -rf ck losses.csv run.json
  "${run[@]}" --until 100000 --resume ck --checkpoint ck --losses losses.csv --checkpoint-signal USR2 --json=run.json \
    ep.hepb 2>err &
  pid=$!
  caught $pid "$(kill -l "$signal")"
  for _ in $(seq 200); do [ "$(wc -l 2>/dev/null <losses.csv || echo 0)" -lt 3 ] || break; sleep 0.02; done
  kill "-$signal" $pid
  wait $pid
  ended "$signal" $?
done
python3 -c 'import json; run = json.load(open("run.json"))
assert run["interrupted"] is True and len(run["loss"]) == run["iterations"] > 0' || fail "report of an interrupted run"
expect 0 '' "${run[@]}" --until $total --resume ck --checkpoint ck --losses losses.csv ep.hepb
[ "$(python3 rows.py losses.csv)" = $total ] || fail "an interrupted run continues differently"
# `timeout` signals the process and its group: that is one signal.
rm -rf ck losses.csv
timeout 1 "${run[@]}" --until 100000 --checkpoint ck --losses losses.csv ep.hepb 2>err
ended TERM $(($? == 124 ? 75 : $?))

# A hang-up that is ignored (nohup) is, also where a library takes the signal before `main`, as UCX does.
cat >taker.c <<'C'
#include <signal.h>
static void show(int number) { (void)number; }
__attribute__((constructor)) static void take(void) { signal(SIGHUP, show); }
C
expect 0 '' "${CC:-cc}" -shared -fPIC taker.c -o taker.so
for preload in '' "$PWD/taker.so"; do
  (trap '' HUP; LD_PRELOAD=$preload exec "${run[@]}" --until 100 --losses nohup.csv --overwrite ep.hepb 2>err) &
  pid=$!
  caught $pid 15
  kill -HUP $pid
  wait $pid || fail "nohup, '$preload': $? $(cat err)"
done

# A long iteration: what the run waits for is said; a second signal does not wait. Nor does one before the first.
sed 's/1 Gbit/200 kbit/' model.hep >slow.hep
expect 0 '' "$HEPC" --domain gather slow.hep -o slow.hepb
"${run[@]}" --emulate-links --checkpoint slow slow.hepb 2>err &
pid=$!
caught $pid 15
for _ in $(seq 100); do kill -USR1 $pid; grep -q 'under way' err && break; sleep 0.05; done
kill -TERM $pid
for _ in $(seq 60); do grep -q '^hep-run: SIGTERM: ends after the iteration under way, 1 of 10; ' err && break; sleep 0.05; done
grep -q '^hep-run: SIGTERM: ends after the iteration under way, 1 of 10; a second' err || fail "no word of a long iteration: $(cat err)"
begin=$SECONDS
kill -TERM $pid
wait $pid
[ $? = 143 ] && [ $((SECONDS - begin)) -le 2 ] || fail "a second signal: after $((SECONDS - begin)) s: $(cat err)"
# Nor is one waited for twice that by default ends nothing.
"${run[@]}" --emulate-links --checkpoint-signal URG slow.hepb 2>err &
pid=$!
caught $pid "$(kill -l URG)"
for _ in $(seq 100); do kill -USR1 $pid; grep -q 'under way' err && break; sleep 0.05; done
kill -URG $pid
sleep 0.3
kill -URG $pid
wait $pid
[ $? = $((128 + $(kill -l URG))) ] || fail "a second SIGURG: $(cat err)"
# While a run begins there is nothing to keep: here, it waits for its plan.
mkfifo late
for signal in "${endings[@]}" USR2; do
  "$HEP_RUN" --checkpoint-signal USR2 --checkpoint ck - <late 2>err &
  pid=$!
  exec 3>late
  caught $pid "$(kill -l USR2)"
  kill "-$signal" $pid
  wait $pid
  [ $? = 75 ] && [ "$(cat err)" = 'hep-run: interrupted before the first iteration' ] || fail "$signal at the beginning: $(cat err)"
  exec 3>&-
done
# Or reads data, of which there are many.
truncate -s 100G huge
"${run[@]}" --data huge ep.hepb 2>err &
pid=$!
for _ in $(seq 100); do [ -e "$(find /proc/$pid/fd -lname "$PWD/huge")" ] && break; sleep 0.05; done
begin=$SECONDS
kill -TERM $pid
wait $pid
[ $? = 75 ] && [ $((SECONDS - begin)) -le 5 ] && grep -q '^hep-run: interrupted while --data was read' err || fail "data: $(cat err)"
rm huge
expect 2 "checkpoint-signal 'KILL': expected USR2, USR1, TERM, .* or URG" "$HEP_RUN" --checkpoint-signal KILL ep.hepb

# A limit of file sizes, which kills programs that do not expect it, is an error like others. Nothing half is left.
rm -rf ck
(ulimit -f 20; exec "${run[@]}" -n 2 --checkpoint ck ep.hepb 2>err)
[ $? = 6 ] && grep -q '^hep-run: .*: File too large' err || fail "a limit of file sizes: $(cat err)"
[ -z "$(find ck -mindepth 1)" ] || fail "a limit of file sizes left $(ls ck)"
mkdir plan
(ulimit -f 1; exec "$HEPC" model.hep -o plan/ep.hepb >out 2>err)
[ $? = 6 ] && grep -q '^hepc: .*: File too large' err || fail "hepc, a limit of file sizes: $(cat err)"
# A signal while hepc writes: its file is there whole, and no other.
raise=$(dirname "$(dirname "$HEPC")")/tests/libraise.so
cp "$raise" raise.so # names of libraries to preload may have no spaces
for signal in "${endings[@]}"; do
  number=$(kill -l "$signal")
  HEP_RAISE=$number LD_PRELOAD=./raise.so "$HEPC" model.hep -o plan/ep.hepb >out 2>err
  [ $? = $((128 + number)) ] && [ "$(ls plan)" = ep.hepb ] || fail "hepc, $signal: left $(ls plan)"
done
cmp ep.hepb <("$HEPC" --domain ep model.hep -o - 2>/dev/null) || fail "plan of hepc"

# until_done NAME COMMAND...: starts it, and kills it, until it has been killed often enough; then lets it end.
until_done() {
  local name=$1 pid killed=0
  shift
  rm -rf ck losses.csv
  while [ $killed -lt "$kills" ]; do
    "$@" --until $total --resume ck --checkpoint ck --every 3 --losses losses.csv ep.hepb >out 2>err &
    pid=$!
    sleep "$start_s$((RANDOM % 4))$((RANDOM % 10))"
    if [ "$name" = threads ]; then kill -KILL $pid 2>/dev/null; else ranks_of $pid | head -n 1 | cut -d' ' -f1 | xargs -r kill -KILL; fi
    wait $pid 2>/dev/null
    killed=$((killed + 1))
  done
  "$@" --until $total --resume ck --checkpoint ck --every 3 --losses losses.csv ep.hepb >out 2>err || fail "$name: $(cat err)"
  [ "$(python3 rows.py losses.csv)" = $total ] || fail "$name: killed, it continues differently"
  [ "$(find ck -name '*.tmp' | wc -l)" = 0 ] || fail "$name: left $(ls ck)"
}
start_s=0.
until_done threads "${run[@]}"

# The recipe of running.md, with commands in place of Slurm's that start processes and keep what is put into the queue.
mkdir slurm
sed -n '/^    #!\/bin\/bash$/,/^    exit/s/^    //p' "$HEP_SOURCE/docs/running.md" | sed "s/100000/$total/" >job.sh
grep -q '^srun .*hep-run .*--checkpoint-signal USR2' job.sh || fail "the recipe in running.md is not found"
cp ep.hepb train.hepb
cat >slurm/scontrol <<'SH'
#!/bin/bash
echo "$@" >>requeued
SH
launch=
if has_mpi ep.hepb; then launch='mpirun --oversubscribe -n 4'; fi
cat >slurm/srun <<SH
#!/bin/bash
while [[ \$1 == -* ]]; do shift; done
echo \$\$ >srun.pid
program=\$1
shift
[ "\$program" = hep-run ] && exec $launch "$HEP_RUN" --learning-rate 0.01 --quiet "\$@"
SH
chmod +x slurm/*
rm -rf ck losses.csv
for round in 1 2 3; do
  rm -f srun.pid
  PATH=$PWD/slurm:$PATH SLURM_JOB_ID=4711 bash job.sh >out 2>err &
  job=$!
  if [ $round -le 2 ]; then
    for _ in $(seq 400); do [ "$(wc -l 2>/dev/null <losses.csv || echo 0)" -lt $((round * 30)) ] || break; sleep 0.02; done
    kill -USR2 "$(cat srun.pid)"
    wait $job
    [ $? = 75 ] || fail "recipe, round $round: $(cat err)"
    [ "$(cat requeued)" = "$(yes 'requeue 4711' | head -n $round)" ] || fail "not put back: $(cat requeued)"
  else
    wait $job || fail "recipe, last round: $(cat err)"
  fi
done
[ "$(python3 rows.py losses.csv)" = $total ] || fail "the recipe continues differently"

[ -n "$launch" ] || { echo "no MPI: signals to processes are not tried"; finish; }
launch=(mpirun --oversubscribe -n 4)
# One process alone gets the signal: all end together.
rm -rf ck losses.csv
"${launch[@]}" "${run[@]}" --until 100000 --checkpoint ck --losses losses.csv ep.hepb >out 2>err &
launcher=$!
for _ in $(seq 400); do [ "$(wc -l 2>/dev/null <losses.csv || echo 0)" -lt 3 ] || break; sleep 0.02; done
kill -TERM "$(pid_of $launcher 2)"
wait $launcher
ended TERM $?
start_s=0.8
until_done processes "${launch[@]}" "${run[@]}"
finish
