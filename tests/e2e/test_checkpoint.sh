# Checkpoints: a resumed training goes on bit by bit, also by processes; under another strategy or number of ranks experts
# are dealt out by their index. Whatever a killed, full or damaged disk leaves behind is refused by name or left alone.
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
cat >model.hep <<'HEP'
let dcs = 2
cluster four {
  level dc  { count = dcs  bandwidth = 1 Gbit/s  latency = 1 ms }
  level gpu { count = 2  bandwidth = 4 Gbit/s  latency = 10 us }
  device    { compute = 4 GFLOP/s  memory = 512 MB  memory_bandwidth = 1 GB/s }
}
model small {
  layers = 2  hidden = 32  heads = 4  vocabulary = 256  sequence = 16  batch = 4  dtype = f32
  moe { experts = 8  top_k = 2  inner = 48  activation = gelu }
}
plan { pass = training }
HEP
compile() { # NAME OPTIONS...
  expect 0 '' "$HEPC" -o "$1.hepb" "${@:2}" model.hep || finish
}
train() { # NAME OPTIONS... : NAME.json; a checkpoint or a plan among the options
  expect 0 '' "$HEP_RUN" --learning-rate 0.01 --quiet --json="$1.json" "${@:2}"
}
# losses FILE...: one loss a line
losses() {
  python3 -c 'import json, sys
for name in sys.argv[1:]: print(*map(repr, json.load(open(name + ".json"))["loss"]), sep="\n")' "$@"
}
compile outer --domain dc=2,gpu=1
compile inner --domain dc=1,gpu=2
compile ep --domain ep
compile gather --domain gather
compile wide --domain ep -D dcs=4
compile two --domain dc=1,gpu=2 -D dcs=1

# The same losses as a run that was not interrupted; the last two are kept; evaluating changes nothing.
train whole -n 20 outer.hepb
train begin -n 10 --checkpoint kept --every 3 --validate 4 outer.hepb
train end -n 10 --resume kept outer.hepb
[ "$(losses whole)" = "$(losses begin end)" ] || fail "resumed losses are others"
[ "$(echo kept/*)" = "kept/step-000009 kept/step-000010" ] || fail "kept: $(echo kept/*)"
python3 - <<'PYTHON' || fail "the report of checkpoints"
import json
begin, end = json.load(open("begin.json")), json.load(open("end.json"))
assert [v["iteration"] for v in begin["validation"]] == [4, 8, 10], begin["validation"]
assert begin["checkpoints"]["count"] == 4 and begin["checkpoints"]["iteration"] == 10
assert begin["checkpoints"]["bytes"] > 0 and begin["checkpoints"]["sum_s"] >= begin["checkpoints"]["max_s"] > 0
assert end["first_iteration"] == 11 and end["resumed"] == "kept/step-000010"
PYTHON

# 16-bit weights have a master copy; warm-up iterations train, too; the seed is the checkpoint's.
sed 's/dtype = f32/dtype = bf16/' model.hep >half.hep
expect 0 '' "$HEPC" --domain dc=2,gpu=1 -o half.hepb half.hep
train half_whole -n 8 --seed 7 half.hepb
train half_begin -n 2 --warmup 2 --seed 7 --checkpoint half half.hepb
train half_end -n 4 --resume half/step-000004 half.hepb
[ "$(losses half_whole | tail -n 4)" = "$(losses half_end)" ] || fail "bf16: resumed losses are others"

# Experts keep weights and state wherever they go. A learning rate of 0 changes no weight.
cat >experts.py <<'PYTHON'
import json, sys
def contents(path):
    head = json.load(open(path + "/manifest.json"))["checkpoint"]
    files, found, size = head["files"], {}, {"f32": 4, "bf16": 2, "f16": 2}
    for f, of in enumerate(files):
        data, at = open(path + "/" + of["name"], "rb").read(), 0
        for buffer in head["buffers"]:
            if (buffer["of"] == "equal") != (f == 0):
                continue
            row = buffer["cols"] * size[buffer["dtype"]]
            for r in range(buffer["rows"]):
                key = (buffer["name"], None if f == 0 else of["first_expert"] + r)
                part = data[at + r * row:at + (r + 1) * row]
                assert found.setdefault(key, part) == part, ("ranks differ", key)
            at += buffer["rows"] * row
        assert at == len(data)
    return {key: part for key, part in found.items() if key[0].endswith("state") == (sys.argv[1] == "state")}
first, second = contents(sys.argv[2]), contents(sys.argv[3])
assert first == second and first, "contents differ"
PYTHON
for plan in ep gather inner wide two; do
  train moved -n 1 --learning-rate 0 --weight-decay 0 --resume kept --checkpoint "to_$plan" $plan.hepb &&
    { python3 experts.py weights kept/step-000010 "to_$plan/step-000011" || fail "weights moved to $plan"; }
  train back -n 1 --resume "to_$plan" outer.hepb
done
for plan in ep gather inner; do
  train "as_$plan" -n 10 --resume kept $plan.hepb
  python3 - "as_$plan" <<'PYTHON' || fail "losses go another way as $plan"
import json, sys
a, b = json.load(open("end.json"))["loss"], json.load(open(sys.argv[1] + ".json"))["loss"]
worst = max(abs(x / y - 1) for x, y in zip(a, b))
assert len(a) == len(b) and worst < 2e-4, worst # as tests/e2e/test_training.sh
PYTHON
done
expect 0 '' "$HEP_RUN" -n 1 --resume kept ep.hepb
grep -q 'resumed from kept/step-000010: .* iteration 11; strategy or ranks are others' out || fail "not told: $(cat out)"

# Another model, other data, another seed: refused by the name of what differs.
other() { # PATTERN SED
  sed "$2" model.hep >other.hep
  expect 0 '' "$HEPC" --domain ep -o other.hepb other.hep &&
    expect 3 "$1" "$HEP_RUN" -n 1 --resume kept other.hepb &&
    expect 3 "another model's checkpoints are there.*$1" "$HEP_RUN" -n 1 --checkpoint empty_of other.hepb
}
mkdir empty_of && cp -r kept/step-000010 empty_of/step-000000
other "model's hidden is 32 there, 64 in the plan" 's/hidden = 32/hidden = 64/'
other "model's dtype is f32 there, bf16 in the plan" 's/dtype = f32/dtype = bf16/'
other "model's experts is 8 there, 16 in the plan" 's/experts = 8/experts = 16/'
other "model's activation is gelu there, relu in the plan" 's/gelu/relu/'
seq 4000 >text
expect 3 'trained on generated data, this run has a file' "$HEP_RUN" -n 1 --resume kept --data text outer.hepb
expect 0 '' "$HEP_RUN" -n 1 --resume kept --data text --other-data outer.hepb
expect 3 'its seed is 0, --seed 3' "$HEP_RUN" -n 1 --resume kept --seed 3 outer.hepb
expect 0 '' "$HEP_RUN" -n 1 --data text --checkpoint of_text outer.hepb
seq 4001 >text
expect 3 'trained on a file of 18893 bytes .*, --data has 18898' "$HEP_RUN" -n 1 --resume of_text --data text outer.hepb

# Directories that cannot be what they should.
mkdir empty
expect 3 'empty: there is no checkpoint' "$HEP_RUN" --resume empty outer.hepb
expect 6 'absent: No such file' "$HEP_RUN" --resume absent outer.hepb
expect 6 'text: Not a directory' "$HEP_RUN" --resume text outer.hepb
expect 6 'absent/deep: No such file' "$HEP_RUN" --checkpoint absent/deep outer.hepb
expect 6 'text' "$HEP_RUN" --checkpoint text outer.hepb
expect 3 'of iteration 10, beyond where this run begins: --resume it' "$HEP_RUN" --checkpoint kept outer.hepb

# A damaged file is named, and the checkpoint before it.
cat >damage.py <<'PYTHON'
import os, random, sys
how, path = sys.argv[1:3]
if how == "swap":
    other = os.path.dirname(path) + "/rank-00002"
    os.rename(path, path + "x"); os.rename(other, path); os.rename(path + "x", other)
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
damaged() { # PATTERN HOW FILE SEED: refused by name, and the one before is told, and works
  rm -rf hurt && cp -r kept hurt && python3 damage.py "$2" "hurt/step-000010/$3" "${4:-1}" || fail "damage.py"
  expect 3 "hurt/step-000010/$1.*: --resume hurt/step-000009" "$HEP_RUN" -n 1 --resume hurt outer.hepb
}
for seed in 1 2 3; do
  damaged 'rank-00001: damaged: its checksum' flip rank-00001 $seed
  damaged 'equal: damaged: its checksum' flip equal $seed
  damaged 'rank-00003: damaged: it is shorter' cut rank-00003 $seed
done
damaged 'rank-00000: damaged: it is longer' add rank-00000
damaged 'rank-0000[12]: damaged: its checksum' swap rank-00001
damaged 'manifest.json' cut manifest.json
for seed in $(seq 12); do # what only changes blanks is no damage
  rm -rf hurt && cp -r kept hurt && python3 damage.py flip hurt/step-000010/manifest.json "$seed"
  "$HEP_RUN" -n 1 --resume hurt --learning-rate 0.01 --json=hurt.json outer.hepb >out 2>err
  case $? in
  0) [ "$(losses hurt)" = "$(losses end | sed -n 1p)" ] || fail "a damaged manifest was believed, seed $seed" ;;
  3) grep -q 'hurt/step-000010/manifest.json: .*: --resume hurt/step-000009' err || fail "seed $seed: $(cat err)" ;;
  *) fail "manifest, seed $seed: $(cat err)" ;;
  esac
done
rm hurt/step-000010/rank-00002 && cp kept/step-000010/manifest.json hurt/step-000010
expect 6 'step-000010/rank-00002: No such file.*: --resume hurt/step-000009' "$HEP_RUN" -n 1 --resume hurt outer.hepb
train before -n 1 --resume hurt/step-000009 outer.hepb
[ "$(losses before)" = "$(losses whole | sed -n 10p)" ] || fail "the checkpoint before goes on otherwise"

# Killed at any instant: what is there is complete, and goes on as if nothing had been.
train reference -n 400 ep.hepb
for round in 1 2 3 4 5 6 7 8; do
  rm -rf killed
  "$HEP_RUN" --learning-rate 0.01 -n 400 --checkpoint killed --every 1 ep.hepb >out 2>err &
  victim=$!
  for _ in $(seq 100); do [ -e killed/step-000002 ] && break; sleep 0.05; done
  sleep "0.$((RANDOM % 4))$((RANDOM % 10))"
  kill -KILL $victim
  wait $victim 2>/dev/null
  train survivor -n 2 --resume killed --checkpoint killed ep.hepb || break
  at=$(python3 -c 'import json; print(json.load(open("survivor.json"))["first_iteration"])')
  [ "$(losses survivor)" = "$(losses reference | sed -n "$at,$((at + 1))p")" ] || fail "killed: goes on otherwise at $at"
  [ -z "$(find killed -name '*.tmp')" ] || fail "killed: leftovers $(echo killed/*)"
done

# A directory is one run's.
"$HEP_RUN" -n 100000 --checkpoint shared --every 5 ep.hepb >out 2>err &
owner=$!
for _ in $(seq 100); do [ -e shared/step-000005 ] && break; sleep 0.05; done
expect 6 'another run writes its checkpoints there' "$HEP_RUN" -n 1 --resume shared --checkpoint shared ep.hepb
# Ctrl-C leaves complete checkpoints alone behind.
kill -INT $owner
wait $owner
[ $? = 5 ] && grep -q 'interrupted' err || fail "interrupted: $(cat err)"
[ -z "$(find shared -name '*.tmp')" ] || fail "interrupted: leftovers $(echo shared/*)"
expect 0 '' "$HEP_RUN" -n 1 --resume shared --checkpoint shared ep.hepb

# A full disk: the run says which file of which rank and why, and the checkpoint before stays.
full() { # COMMAND... : in `disk` there is room for one checkpoint and a part of another
  "$@" "$HEP_RUN" --learning-rate 0.01 -n 50 --checkpoint disk/ck --every 1 ep.hepb >out 2>err
  [ $? = 6 ] && grep -qE "rank [0-3]: disk/ck/step-[0-9]*.tmp/(rank-0000[0-3]|equal|manifest.json): $reason" err &&
    [ "$(grep -c '^hep-run:' err)" = 1 ]
}
if unshare -rm true 2>/dev/null; then
  mkdir disk
  bytes=$(($(stat -c %s kept/step-000010/* | paste -sd+)))
  cat >in_disk <<SH
mount -t tmpfs -o size=$((bytes * 5 / 2 / 1024))k none disk && "\$@"
code=\$?
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

# What does not go together.
expect 2 "every.* how often --checkpoint" "$HEP_RUN" --every 3 ep.hepb
expect 2 "every 'often'" "$HEP_RUN" --checkpoint x --every often ep.hepb
expect 2 "every '0'" "$HEP_RUN" --checkpoint x --every 0 ep.hepb
expect 2 '--other-data goes with --resume' "$HEP_RUN" --other-data ep.hepb
expect 2 'not with --resume' "$HEP_RUN" --check -n 1 --resume kept ep.hepb

if [ -z "${HEP_WITHOUT_MPI:-}" ] && command -v mpirun >/dev/null &&
  ! "$HEP_RUN" --communicator mpi outer.hepb 2>&1 >/dev/null | grep -q 'built without MPI'; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1
  export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0 # MPI keeps what it allocated
  processes() { # NAME OPTIONS...
    expect 0 '' timeout 100 mpirun --oversubscribe -n 4 "$HEP_RUN" --learning-rate 0.01 --json="$1.json" "${@:2}"
  }
  processes mpi_begin -n 10 --checkpoint by_mpi --every 4 outer.hepb
  processes mpi_end -n 10 --resume by_mpi outer.hepb
  [ "$(losses mpi_begin mpi_end)" = "$(losses whole)" ] || fail "processes resume otherwise"
  cmp -s by_mpi/step-000010/rank-00002 kept/step-000010/rank-00002 || fail "processes write other checkpoints"
  processes mpi_thread -n 10 --resume kept outer.hepb
  [ "$(losses mpi_thread)" = "$(losses end)" ] || fail "processes resume a checkpoint of threads otherwise"
  python3 damage.py flip by_mpi/step-000010/rank-00001
  timeout 60 mpirun --oversubscribe -n 4 "$HEP_RUN" -n 1 --resume by_mpi outer.hepb >out 2>err
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
