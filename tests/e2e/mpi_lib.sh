# Processes that mpirun started, for tests that send them signals. Sourced after lib.sh.

# Processes of a launcher, as "PID RANK" lines.
ranks_of() {
  local pid
  for pid in $(pgrep -P "$1"); do
    { tr '\0' '\n' <"/proc/$pid/environ"; } 2>/dev/null | sed -n "s/^OMPI_COMM_WORLD_RANK=/$pid /p"
  done
}

# pid_of LAUNCHER RANK: waits until that rank is there.
pid_of() {
  local pid
  for _ in $(seq 500); do
    pid=$(ranks_of "$1" | sed -n "s/ $2\$//p")
    [ -n "$pid" ] && { echo "$pid"; return; }
    sleep 0.05
  done
}

# Waits until a rank says, asked by SIGUSR1 as soon as it catches that, that its stream is at a step.
await_step() { # LAUNCHER RANK STREAM ERR
  local pid caught
  pid=$(pid_of "$1" "$2")
  for _ in $(seq 500); do
    caught=$(sed -n 's/^SigCgt:\s*//p' "/proc/$pid/status" 2>/dev/null)
    if [ -n "$caught" ] && (((0x${caught: -8} & 0x200) != 0)); then
      kill -USR1 "$pid"
      grep -q "^rank $2: stream '$3': step" "$4" && return
    fi
    sleep 0.05
  done
  echo "never at a step of stream '$3'" >>"$4"
}
