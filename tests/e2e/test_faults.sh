# What goes wrong in a world of processes: every case three times, none may hang, leave a process behind or say more
# than one message, and that message names who, where and what to look at.
# builds: fast  seconds: 60
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/mpi_lib.sh"
command -v mpirun >/dev/null || { echo "SKIP: no mpirun"; exit 77; }
cd "$work" || exit 1
use_mpi
export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0
timeout_s=4 rounds=3
cp "$(dirname "$(dirname "$HEP_RUN")")/tests/libhold.so" hold.so # names of libraries to preload may have no spaces

describe() { # experts' inner size, batch: gathers or exchanges take most of an iteration
  cat <<HEP
cluster three {
  level dc   { count = 3  bandwidth = 200 Mbit/s  latency = 2 ms }
  device     { compute = 4 GFLOP/s  memory = 1 GB  memory_bandwidth = 1 GB/s }
}
model small {
  layers = 2  hidden = 64  heads = 2  vocabulary = 16
  sequence = 4  batch = $2
  dtype = f32
  moe { experts = 6  top_k = 2  inner = $1  activation = relu }
}
plan { pass = forward }
HEP
}
describe 12288 1 >gather.hep
describe 4 2048 >exchange.hep
expect 0 '' "$HEPC" --domain gather gather.hep -o gather.hepb || finish
describe 4 1 >tiny.hep
expect 0 '' "$HEPC" tiny.hep -o tiny.hepb || finish
expect 0 '' "$HEPC" --domain ep exchange.hep -o exchange.hepb || finish
"$HEP_RUN" --communicator mpi gather.hepb >/dev/null 2>err
grep -q 'built without MPI' err && { echo "SKIP: hep-run has no MPI"; exit 77; }

# Waits until that rank has been stopped inside a collective (tests/hold.c) and, if it is to be killed there, until all
# others have been at one step of the stream for a second: they will not come further.
await_held() { # LAUNCHER RANK SIGNAL STREAM ERR
  local target pid rank try
  target=$(pid_of "$1" "$2")
  for try in $(seq 600); do
    [ "$(ps -o stat= -p "$target" | cut -c1)" != T ] || break
    sleep 0.05
  done
  [ "$try" -lt 600 ] || echo "never at a step of stream '$4' that keeps it" >>"$5"
  [ "$3" = KILL ] || return
  while read -r pid rank; do
    [ "$rank" != "$2" ] || continue
    until grep -qE "^rank $rank: stream '$4': step .* under way for [0-9.]+ s$" "$5"; do
      kill -USR1 "$pid" 2>/dev/null || return
      [ "$try" -lt 600 ] || return
      sleep 0.05
      try=$((try + 1))
    done
  done < <(ranks_of "$1")
}

# Of the processes on standard input, those that have not ended.
alive() {
  local pid stat
  while read -r pid; do
    { read -r stat <"/proc/$pid/stat"; } 2>/dev/null && [[ ! $stat =~ ^.*\)\ [ZX] ]] && echo "$stat"
  done
}

now_ms() { echo $((${EPOCHREALTIME/[.,]/} / 1000)); }

# one NAME SIGNAL WHO WHEN PLAN: one round in the working directory; WHO is a rank or 'launcher'. WHEN is 'start', the
# stream that is to be at a step, or 'inside STREAM': in a collective of that stream WHO waits for the signal. Leaves the
# time it took after the signal, the exit code, and the target's PID.
one() {
  local launcher target pids begin keep=none limit_s=$timeout_s
  if [[ $4 == inside* ]]; then
    keep=$3
    [ "$2" != KILL ] || limit_s=60 # nobody gives up before
  fi
  mpirun --oversubscribe -n 3 sh -c "[ \$OMPI_COMM_WORLD_RANK = $keep ] || exec \"\$@\"
    exec env HEP_HOLD_AT=5 LD_PRELOAD=../hold.so \"\$@\"" - \
    "$HEP_RUN" --quiet "../$5" --timeout $limit_s --iterations 1000000 >out 2>err &
  launcher=$!
  case $4 in
  start) ;;
  inside*) await_held "$launcher" "$3" "$2" "${4#inside }" err ;;
  *) await_step "$launcher" 0 "$4" err ;;
  esac
  target=$launcher
  [ "$3" = launcher ] || target=$(pid_of "$launcher" "$3")
  pids=$(ranks_of "$launcher")
  [ -z "$target" ] || kill "-$2" "$target"
  begin=$(now_ms)
  echo "$target" >target
  echo "$pids" | cut -d" " -f1 >pids
  touch signalled
  while [ $(($(now_ms) - begin)) -le $(((timeout_s + 5) * 1000)) ]; do
    [ -n "$(alive <pids)" ] || [ -n "$(pgrep -P "$launcher" | alive)" ] || break
    sleep 0.1
  done
  echo $(($(now_ms) - begin)) >took_ms
  # Open MPI's launcher itself may hang when processes end while they start.
  for _ in $(seq 50); do
    kill -0 "$launcher" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL "$launcher" 2>/dev/null
  wait "$launcher" 2>/dev/null
  echo $? >code
  tr -d '\0' <err >text && mv text err # Open MPI 5 prints its strings with their ends
}

# Checks what a round left: CODE is a pattern.
judge() { # NAME CODE PATTERN SILENT
  local count
  grep -qxE "$2" code || fail "$1: exit code $(cat code)"
  [ "$(cat took_ms)" -le $(((timeout_s + 5) * 1000)) ] || fail "$1: took $(cat took_ms) ms"
  count=$(grep -aoE 'hep-run: .*' err | grep -avc 'ends after the iteration under way') # printed while it waits for that
  [[ $count =~ ^${4:-1}$ ]] || fail "$1: $count messages: $(cat err)"
  [ -z "$3" ] || grep -qE "${3//TARGET/$(cat target)}" err || fail "$1: not '$3' but: $(cat err)"
  ! grep '^never at a step' err || fail "$1: the signal came too soon"
  [ -z "$(alive <pids)" ] || fail "$1: left behind: $(alive <pids)"
}

# fault NAME CODE PATTERN SIGNAL WHO WHEN PLAN: all rounds. The next begins as soon as the signal of this one is sent:
# worlds that wait for their time limit do so side by side, but one at a time starts and computes.
names=() codes=() patterns=() running=()
fault() {
  local round
  names+=("$1") codes+=("$2") patterns+=("$3")
  for ((round = 1; round <= rounds; round++)); do
    mkdir -p "$1.$round"
    (cd "$1.$round" && one "$1" "${@:4}") &
    running+=($!)
    until [ -e "$1.$round/signalled" ]; do sleep 0.05; done
  done
}

settle() { # MESSAGES: how many
  local round at
  wait "${running[@]}"
  for at in "${!names[@]}"; do
    for ((round = 1; round <= rounds; round++)); do
      cd "$work/${names[at]}.$round" && judge "${names[at]}, round $round" "${codes[at]}" "${patterns[at]}" "${1:-1}"
      cd "$work" || exit 1
    done
  done
  names=() codes=() patterns=() running=()
}

# Under mpirun a killed process ends all: the survivors know which it was, as it ran on this machine.
gone='rank [0-9]:.*interrupted.*; rank 2 is process TARGET on .*: that process is gone'
stopped='rank [0-9]: (step [0-9]+, .*: rank [0-9] did not .*|(step [0-9]+, .*: )?rank [0-9] gave no sign of life.*); '
stopped+='rank R is process TARGET on .*: that process is stopped'
at_gather="rank [0-9]: step [0-9]+, 'gather' of layer [01] at level 'dc': "
at_exchange="rank [0-9]: step [0-9]+, '(dispatch|combine)' of layer [01] at level 'dc': "
silent='(rank [0-9] did not (arrive|take its rows) in the gather group|rank [0-9] gave no sign of life).*; '
silent+='rank 2 is process TARGET on .*: that process is stopped'
fault kill-gather 137 "${at_gather}interrupted.*${gone#*interrupted}" KILL 2 'inside migrate' gather.hepb
fault kill-exchange 137 "$gone" KILL 2 exchange exchange.hepb
fault stop-gather 5 "$at_gather$silent" STOP 2 'inside migrate' gather.hepb
fault stop-exchange 5 "$at_exchange${silent//gather group/.*}" STOP 2 'inside exchange' exchange.hepb
fault stop-anywhere 5 "${stopped/R/2}" STOP 2 exchange exchange.hepb
fault stop-first 5 "${stopped/R/0}" STOP 0 exchange exchange.hepb
fault kill-first 137 'rank [0-9]:.*; rank 0 is process TARGET on .*: that process is gone' KILL 0 migrate gather.hepb
fault stop-start '[1-9][0-9]*' 'MPI did not come up|gave no sign of life' STOP 1 start gather.hepb
settle
fault kill-start '[1-9][0-9]*' '' KILL 1 start gather.hepb
# The launcher kills what has not ended a second later.
fault interrupt '[1-9][0-9]*' 'interrupted (by SIG[A-Z]*|while|in)|SIGTERM: ends after the iteration' INT launcher migrate gather.hepb
settle '[01]'

# Processes that were not given the same, and one that gets no memory.
# ends NAME PATTERN RANKS ODD USUAL: shell commands, ODD for RANKS (a pattern) and USUAL for the others of three, whose
# "$@" is hep-run with its options; to fail with 5 and one message, three times at once. One program for all ranks: not
# every mpirun survives several.
ends() {
  local round
  names+=("$1") patterns+=("$2")
  for ((round = 1; round <= rounds; round++)); do
    (timeout 60 mpirun --oversubscribe -n 3 sh -c "case \$OMPI_COMM_WORLD_RANK in $3) $4 ;; *) $5 ;; esac" - \
      "$HEP_RUN" --quiet >/dev/null 2>"$1.$round.err"; echo $? >"$1.$round.code") &
    running+=($!)
  done
}

settle_ends() {
  local round at name code
  wait "${running[@]}"
  for at in "${!names[@]}"; do
    for ((round = 1; round <= rounds; round++)); do
      name=${names[at]}.$round
      code=5
      grep -q '^hep-run: .*out of memory' "$name.err" && code=7
      [ "$(cat "$name.code")" = $code ] || fail "$name: exit code $(cat "$name.code"), not $code"
      if [ "$(grep -c '^hep-run:' "$name.err")" != 1 ] || ! grep -qE "${patterns[at]}" "$name.err"; then
        fail "$name: not '${patterns[at]}' once but: $(cat "$name.err")"
      fi
    done
  done
  names=() patterns=() running=()
}
ends plan "^hep-run: rank 1: started with another plan than rank 0: 'exchange.hepb'" \
  1 'exec "$@" exchange.hepb' 'exec "$@" gather.hepb'
ends seed '^hep-run: rank 2: started with --seed 7, but rank 0 with 0' \
  2 'exec "$@" --seed 7 exchange.hepb' 'exec "$@" exchange.hepb'
settle_ends
ends options '^hep-run: rank 1: started with another --iterations than rank 0' \
  '[12]' 'exec "$@" --iterations 5 exchange.hepb' 'exec "$@" exchange.hepb'
if is_sanitized "$HEP_RUN"; then
  scarce='export ASAN_OPTIONS="$ASAN_OPTIONS:max_allocation_size_mb=50:allocator_may_return_null=1"'
else # what a process takes before the arena, and not enough for that
  export MALLOC_ARENA_MAX=1 OPENBLAS_NUM_THREADS=1
  mpirun --oversubscribe -n 3 sh -c '"$0" "$@" & while grep VmPeak /proc/$!/status >>size; do sleep 0.05; done' \
    "$HEP_RUN" --quiet --iterations 1 tiny.hepb >/dev/null 2>&1
  scarce="ulimit -v $(($(awk '{print $2}' size | sort -n | tail -n 1) + 10000))"
fi
ends memory '^hep-run: rank 1: (out of memory for an arena|.* are left to this process)' \
  1 "$scarce; "'exec "$@" gather.hepb' 'exec "$@" gather.hepb'
settle_ends

# A data centre that is cut off, while iterations run. The lab has folders of its own for mpirun.
build=$(dirname "$(dirname "$HEP_RUN")")
lab=(env PATH="${PATH#*:}" "$HEP_SOURCE/tests/lab/lab" --build "$build")
if [ -x "$build/bin/lab_relay" ] && "${lab[@]}" --dcs 2 --ranks 1 --command true >/dev/null 2>&1; then
  blame='rank [0-9]: .*rank [0-9] (did not|gave no sign).* is process [0-9]+ on dc[0-9]: look at that process'
  for ((round = 1; round <= rounds; round++)); do
    (timeout 60 "${lab[@]}" --cut "$((round - 1))@${round}MB" exchange.hepb -- \
      --quiet --timeout $timeout_s --iterations 1000 >/dev/null 2>"cut.$round.err"; echo $? >"cut.$round.code") &
    running+=($!)
    until [ -e "cut.$round.code" ] || grep -qs 'is cut off' "cut.$round.err"; do sleep 0.05; done
  done
  wait "${running[@]}"
  for ((round = 1; round <= rounds; round++)); do
    [ "$(cat "cut.$round.code")" = 5 ] || fail "cut, round $round: exit code $(cat "cut.$round.code")"
    # Neither side can know that the other one has said it.
    if [[ $(grep -c '^hep-run:' "cut.$round.err") != [12] ]] || ! grep -qE "$blame" "cut.$round.err"; then
      fail "cut, round $round: $(cat "cut.$round.err")"
    fi
  done
else
  echo "skipped: no lab here to cut a link in"
fi
# The stream that waits speaks first: it knows more than who hears no sign of life.
for name in stop-gather stop-exchange; do
  grep -ahqE '^hep-run: .*: rank [0-9] did not' $name.*/err || fail "$name: not by a stream: $(cat $name.*/err)"
done
finish
