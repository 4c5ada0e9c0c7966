# What a killed run, a full or a damaged disk leaves behind: complete checkpoints resume, others are refused by name, and
# nothing is half there.
# builds: dev  seconds: 25
. "$(dirname "$0")/checkpoint_lib.sh"
compile outer --domain dc=2,gpu=1
compile ep --domain ep
train whole -n 11 outer.hepb
train kept -n 10 --checkpoint kept --every 3 outer.hepb

# A damaged file is named, and the checkpoint before it.
cat >damage.py <<'PYTHON'
import os, random, re, sys, zlib
how, path = sys.argv[1:3]
if how == "swap":
    other = os.path.dirname(path) + "/rank-00002"
    os.rename(path, path + "x"); os.rename(other, path); os.rename(path + "x", other)
    sys.exit()
if how == "age": # the version of before, with a checksum that is right
    text = open(path).read()
    begin, end = text.index(":\t{") + 2, text.rindex(",\n\t\"crc32\"")
    plain = lambda body: zlib.crc32(re.sub(r"[\n\t]", "", body).replace(", ", ",").encode())
    assert "%08x" % plain(text[begin:end]) in text[end:]
    aged = re.sub(r'("version":\s*)\d+', r"\g<1>1", text[begin:end], count=1)
    open(path, "w").write(text[:begin] + aged + re.sub("[0-9a-f]{8}", "%08x" % plain(aged), text[end:]))
    sys.exit()
data = bytearray(open(path, "rb").read())
random.seed(int(sys.argv[3]) if len(sys.argv) > 3 else 1)
if how == "flip":
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
elif how == "cut":
    del data[random.randrange(len(data)):]
elif how == "add":
    data += b"x"
open(path, "wb").write(data)
PYTHON
damaged() { # PATTERN HOW FILE SEED: refused by name, and the one before is named, and works
  rm -rf hurt && cp -r kept hurt && python3 damage.py "$2" "hurt/step-000010/$3" "${4:-1}" || fail "damage.py"
  expect 3 "hurt/step-000010/$1.*: --resume hurt/step-000009" "$HEP_RUN" -n 1 --resume hurt outer.hepb
}
for seed in 1 2; do
  damaged 'rank-00001: damaged: its checksum' flip rank-00001 $seed
  damaged 'rank-00002: damaged: its checksum' flip rank-00002 $seed
  damaged 'rank-00003: damaged: it is shorter' cut rank-00003 $seed
done
damaged 'rank-00000: damaged: it is longer' add rank-00000
damaged 'equal: damaged: it is longer' add equal # empty: here all ranks have nothing alike
damaged 'rank-0000[12]: damaged: its checksum' swap rank-00001
damaged 'manifest.json' cut manifest.json
damaged 'manifest.json: version 1 of the format, this program reads [0-9]+' age manifest.json
for seed in $(seq 8); do # what only changes blanks is no damage
  rm -rf hurt && cp -r kept hurt && python3 damage.py flip hurt/step-000010/manifest.json "$seed"
  "$HEP_RUN" -n 1 --resume hurt --learning-rate 0.01 --json=hurt.json outer.hepb >out 2>err
  case $? in
  0) [ "$(losses hurt)" = "$(losses whole | sed -n 11p)" ] || fail "a damaged manifest was believed, seed $seed" ;;
  3) grep -q 'hurt/step-000010/manifest.json: .*: --resume hurt/step-000009' err || fail "seed $seed: $(cat err)" ;;
  *) fail "manifest, seed $seed: $(cat err)" ;;
  esac
done
rm hurt/step-000010/rank-00002 && cp kept/step-000010/manifest.json hurt/step-000010
expect 6 'step-000010/rank-00002: No such file.*: --resume hurt/step-000009' "$HEP_RUN" -n 1 --resume hurt outer.hepb
train before -n 1 --resume hurt/step-000009 outer.hepb
[ "$(losses before)" = "$(losses whole | sed -n 10p)" ] || fail "the checkpoint before continues differently"

# Killed at any instant: what is there is complete, and resumes as if nothing had happened.
firsts=() last=0
for round in 0 1 2 3 4; do
  rm -rf killed
  "$HEP_RUN" --learning-rate 0.01 -n 600 --checkpoint killed --every 1 ep.hepb >out 2>err &
  victim=$!
  for _ in $(seq 100); do [ -e killed/step-000002 ] && break; sleep 0.05; done
  sleep "0.$((RANDOM % 4))$((RANDOM % 10))"
  kill -KILL $victim 2>/dev/null # on a fast machine it may be through
  wait $victim 2>/dev/null
  train survivor$round -n 2 --resume killed --checkpoint killed ep.hepb || break
  at=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["first_iteration"])' survivor$round.json)
  firsts+=("$at")
  last=$((at > last ? at : last))
  [ -z "$(find killed -name '*.tmp')" ] || fail "killed: leftovers $(echo killed/*)"
done
train reference -n $((last + 1)) ep.hepb
for round in "${!firsts[@]}"; do
  at=${firsts[round]}
  [ "$(losses "survivor$round")" = "$(losses reference | sed -n "$at,$((at + 1))p")" ] || fail "killed: continues differently at $at"
done

# A directory is one run's.
"$HEP_RUN" -n 100000 --checkpoint shared --every 5 ep.hepb >owner.out 2>owner.err &
owner=$!
for _ in $(seq 100); do [ -e shared/step-000005 ] && break; sleep 0.05; done
expect 6 'another run writes its checkpoints there' "$HEP_RUN" -n 1 --resume shared --checkpoint shared ep.hepb
# Ctrl-C leaves only complete checkpoints behind.
kill -INT $owner
wait $owner
[ $? = 75 ] && grep -q 'interrupted' owner.err || fail "interrupted: $(cat owner.err)"
[ -z "$(find shared -name '*.tmp')" ] || fail "interrupted: leftovers $(echo shared/*)"
expect 0 '' "$HEP_RUN" -n 1 --resume shared --checkpoint shared ep.hepb

# A full disk: the run says which file of which rank and why, and the checkpoint before stays.
full() { # COMMAND... : in `disk` there is soon no space left for another checkpoint
  "$@" "$HEP_RUN" --learning-rate 0.01 -n 50 --checkpoint disk/ck --every 1 ep.hepb >out 2>err
  [ $? = 6 ] && grep -qE "rank [0-3]: disk/ck/step-[0-9]*.tmp/(rank-0000[0-3]|equal|manifest.json): $reason" err &&
    [ "$(grep -c '^hep-run:' err)" = 1 ]
}
if unshare -rm true 2>/dev/null; then
  mkdir disk
  bytes=$(($(stat -c %s kept/step-000010/* | paste -sd+)))
  cat >in_disk <<SH
mount -t tmpfs -o size=$((bytes * 4 / 1024))k none disk || exit 1
(until [ -e disk/ck/step-000002 ]; do sleep 0.02; done; head -c $((bytes * 4)) /dev/zero >disk/others 2>others.err) &
"\$@"
code=\$?
wait
[ \$code != 6 ] || { ls disk/ck >left; HEP=1 "$HEP_RUN" -n 1 --resume disk/ck ep.hepb >resumed 2>&1 || code=99; }
exit \$code
SH
  reason='No space left on device'
  full unshare -rm bash in_disk || fail "a full disk: $(cat err)"
  grep -q '^step-' left && ! grep -q tmp left || fail "a full disk left: $(cat left)"
else
  echo "no user namespaces: a full disk is tried as a limit of file sizes alone"
  mkdir disk
fi
rm -rf disk/ck
reason='File too large'
(trap '' XFSZ; ulimit -f 20; full) || fail "a limit of file sizes: $(cat err)"
[ -z "$(ls disk/ck)" ] || fail "a limit of file sizes left $(ls disk/ck)"

if has_mpi outer.hepb; then
  rm -rf hurt && cp -r kept hurt && python3 damage.py flip hurt/step-000010/rank-00001
  timeout 60 mpirun --oversubscribe -n 4 "$HEP_RUN" --learning-rate 0.01 -n 1 --resume hurt outer.hepb >out 2>err
  [ $? = 3 ] && grep -q 'hep-run: rank 1: .*/rank-00001: damaged' err && [ "$(grep -c '^hep-run:' err)" = 1 ] ||
    fail "a damaged file among processes: $(cat err)"
  if [ -e in_disk ]; then
    reason='No space left on device'
    full unshare -rm bash in_disk timeout 60 mpirun --oversubscribe -n 4 || fail "MPI, a full disk: $(cat err)"
  fi
else
  echo "no MPI: checkpoints of processes are not checked"
fi
finish
