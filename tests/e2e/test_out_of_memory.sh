# Memory that runs out, at any allocation: a message, the documented exit code, no crash, no hang, no file left behind.
# starve.c is linked into copies of the programs and lets allocations fail.
# builds: dev  seconds: 15
. "$(dirname "$0")/lib.sh"
hepc_starved=$HEPC-starved hep_run_starved=$HEP_RUN-starved
[ -x "$hepc_starved" ] && [ -x "$hep_run_starved" ] || { echo "SKIP: the starved programs are not built"; exit 77; }
cd "$work" || exit 1
# What was allocated where a guard was left is lost.
export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0
export TMPDIR=$work/tmp
runs=24 # with allocations that fail, of each kind of command
refused=0

# starve PROGRAM ARGUMENTS...: writes into written/, which is empty afterwards unless the program was content. What
# training keeps (kept/) stays there.
starve() {
  local total stride at mode got
  rm -rf written tmp kept
  mkdir written tmp
  "$@" >stdout 2>stderr </dev/null || { fail "'$*' fails with memory: $(cat stderr)"; return; }
  total=$(sed -nE 's/^allocations: ([0-9]+)$/\1/p' stderr)
  [ "${total:-0}" -gt 50 ] || { fail "'$*' allocates $total times: the count is wrong"; return; }
  stride=$((total / (runs / 2) + 1))
  for mode in '' -; do
    for ((at = 1; at <= total; at += stride)); do
      rm -rf written tmp kept
      mkdir written tmp
      HEP_STARVE=$at$mode timeout 60 "$@" >stdout 2>stderr </dev/null
      got=$?
      case $got in
        0) [ "$mode" = - ] || fail "allocation $at$mode of '$*': no failure" ;; # some can be done without
        7) refused=$((refused + 1))
           grep -qE '^hep(c|-run): .*(out of memory|Cannot allocate memory)' stderr ||
             fail "allocation $at$mode of '$*': no message, but: $(cat stderr)" ;;
        5) grep -qE '^hep-run: .*cannot start (a|the) thread' stderr || # which the system calls a lack of resources
             fail "allocation $at$mode of '$*': exit code 5: $(cat stderr)" ;;
        *) fail "allocation $at$mode of '$*': exit code $got: $(head -c 2000 stderr)" ;;
      esac
      [ "$got" = 0 ] || [ -z "$(find written tmp -type f)" ] ||
        fail "allocation $at$mode of '$*' left $(find written tmp -type f)"
    done
  done
}

for sample in laptop two_dc six_sites; do
  starve "$hepc_starved" "$HEP_SOURCE/samples/$sample.hep" -o written/plan.hepb
done
starve "$hepc_starved" "$HEP_SOURCE/samples/laptop.hep" --dump=milp -o written/programme.lp
# Questions of explanations are answered on threads.
starve "$hepc_starved" --explain "$HEP_SOURCE/samples/laptop.hep"

cat >small.hep <<'HEP'
cluster two { level gpu { count = 2  bandwidth = 1 Gbit/s  latency = 1 ms }
              device    { compute = 1 GFLOP/s  memory = 64 MB  memory_bandwidth = 1 GB/s } }
model small { layers = 1  hidden = 16  heads = 2  vocabulary = 32  sequence = 8  batch = 1  dtype = f32
              moe { experts = 4  top_k = 2  inner = 16  activation = gelu } }
plan { pass = forward }
HEP
expect 0 '' "$HEPC" small.hep -o plan.hepb || finish
starve "$hep_run_starved" plan.hepb --iterations 2 --json=written/run.json
sed 's/pass = forward/pass = training/' small.hep >train.hep
expect 0 '' "$HEPC" train.hep -o train.hepb || finish
runs=16
starve "$hep_run_starved" train.hepb --iterations 1 --check --losses kept.csv --overwrite --checkpoint kept
[ "$refused" -ge 60 ] || fail "only $refused runs were refused memory"
finish
