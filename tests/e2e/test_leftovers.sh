# What cannot be written is said, and runs that fail leave nothing behind: links to nothing, full disks, full pipes,
# folders for temporary files that are not there, directories and headers.
# builds: fast  seconds: 3
. "$(dirname "$0")/checkpoint_lib.sh"
compile ep --domain ep

# A link is written through, also where it leads to nothing yet, by way of another one, relative to where it is.
mkdir -p there/deeper
ln -s there/second first
ln -s deeper/plan.hepb there/second
expect 0 '' "$HEPC" --domain ep model.hep -o first
[ -L first ] && [ -L there/second ] && cmp there/deeper/plan.hepb ep.hepb || fail "a link to nothing: $(ls -l . there there/deeper)"
ln -s nowhere/plan.hepb lost
expect 6 '^hepc: lost: No such file or directory' "$HEPC" model.hep -o lost
ln -s circle circle
expect 6 '^hepc: circle: ' "$HEPC" model.hep -o circle

# Standard output that takes nothing.
for program in "$HEPC" "$HEP_RUN"; do
  for option in --help --usage --version; do
    "$program" $option >/dev/full 2>err
    [ $? = 6 ] && grep -q ': standard output: cannot be written' err || fail "$program $option: $(cat err)"
  done
done
takes_nothing() {
  "$@" >/dev/full 2>err
  [ $? = 6 ] || fail "$*: $(cat err)"
}
takes_nothing "$HEPC" --help-language
takes_nothing "$HEPC" --check model.hep
takes_nothing "$HEPC" --dump=ir model.hep
takes_nothing "$HEP_RUN" ep.hepb -n 1
takes_nothing "$HEP_RUN" ep.hepb -n 1 --json

# No temporary files are made, wherever they would be.
mkdir empty
expect 0 '' env TMPDIR="$PWD/none" "$HEPC" --dump=milp model.hep -o milp.lp
expect 0 '' env TMPDIR="$PWD/empty" "$HEPC" --dump=milp model.hep -o again.lp
cmp milp.lp again.lp && [ -z "$(ls empty)" ] || fail "TMPDIR: $(ls empty)"

# A run that fails before its first iteration leaves neither a directory nor a log; one of which something is left keeps it.
expect 6 'none/losses.csv: No such file' "$HEP_RUN" ep.hepb -n 1 --checkpoint ck --losses none/losses.csv
[ ! -e ck ] || fail "an empty directory is left"
expect 6 'losses.csv|ck' "$HEP_RUN" ep.hepb -n 1 --losses losses.csv --checkpoint none/ck
[ ! -e losses.csv ] || fail "a header is left"
expect 3 '' "$HEP_RUN" ep.hepb -n 1 --losses losses.csv --checkpoint ck --data milp.lp --validate 1 --validation 0.00001
[ ! -e losses.csv ] && [ ! -e ck ] || fail "left: $(ls)"
mkdir kept
expect 6 'none/losses.csv: No such file' "$HEP_RUN" ep.hepb -n 1 --checkpoint kept --losses none/losses.csv
[ -d kept ] || fail "a directory of the user's was removed"

# A disk that is full after some of the files: none are left.
if unshare -rm true 2>/dev/null && "$HEPC" --emit=chakra model.hep -o whole 2>/dev/null; then
  bytes=$(cat whole.* | wc -c)
  mkdir disk
  cat >full <<SH
mount -t tmpfs -o size=$((bytes * 2 / 3072))k none disk || exit 9
"$HEPC" --emit=chakra model.hep -o disk/part 2>err
echo \$? >code
ls disk >left
SH
  unshare -rm bash full
  [ "$(cat code)" = 6 ] && grep -q '^hepc: disk/part.*: No space left on device' err || fail "a full disk: $(cat code err)"
  [ ! -s left ] || fail "left of Chakra traces: $(cat left)"
else
  echo "no namespaces or no protobuf-c: a full disk is not tried"
fi
finish
