# The first .hep of the README compiles, and its commands name things that exist.
# builds: dev
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
awk '/^    let link/ {on = 1} /^`bandwidth`/ {on = 0} on' "$HEP_SOURCE/README.md" | sed 's/^    //' >first.hep
expect 0 '' "$HEPC" first.hep -o first.hepb
expect 0 '' "$HEPC" -D 'link=1 Gbit/s' --explain first.hep
grep -q 'runner-up' out || fail "no runner-up in --explain"
# The table that it shows is the one that is printed.
expect 0 '' "$HEPC" "$HEP_SOURCE/samples/laptop.hep" -o laptop.hepb
sed -n '/^strategy/,$p' out >printed
awk '/^    strategy/ {on = 1} on && !/^    / {exit} on' "$HEP_SOURCE/README.md" | sed 's/^    //' >shown
cmp -s shown printed || fail "the README shows another table: $(diff shown printed)"
# The training commands, as they stand there but for fewer iterations.
grep -E '^    (hepc samples/light.hep|hep-run --data)' "$HEP_SOURCE/README.md" | sed 's/^    //; s/-n 20/-n 2/; s/--every 10/--every 1/' >training.sh
[ "$(wc -l <training.sh)" = 3 ] || fail "the README has no three training commands: $(cat training.sh)"
ln -s "$HEP_SOURCE/samples" "$HEP_SOURCE/README.md" .
(
  hepc() { "$HEPC" "$@"; }
  hep-run() { "$HEP_RUN" "$@"; }
  set -e
  . ./training.sh
) >out 2>err || fail "a training command of the README fails: $(cat err)"
grep -E '^    (hepc samples/laptop_training.hep|hep-run --emulate-links -n 5)' "$HEP_SOURCE/README.md" | sed 's/^    //; s/-n 5/-n 1/' >update.sh
[ "$(wc -l <update.sh)" = 2 ] || fail "the README has no two commands of micro-batches: $(cat update.sh)"
(
  hepc() { "$HEPC" "$@"; }
  hep-run() { "$HEP_RUN" "$@"; }
  set -e
  . ./update.sh
) >out 2>err || fail "a command of the README about micro-batches fails: $(cat err)"
grep -q 'in each of 4 micro-batches' out || fail "the run says nothing of micro-batches: $(cat out)"
[ -d checkpoints ] || fail "the README's training wrote no checkpoint"
grep -oE 'docs/[a-z-]+\.md' "$HEP_SOURCE/README.md" | sort -u | while read -r page; do
  [ -f "$HEP_SOURCE/$page" ] || echo "$page"
done >missing
[ -s missing ] && fail "README links to pages that do not exist: $(cat missing)"
expect 0 '' "$HEPC" --help
grep -q 'Exit codes' out || fail "hepc --help lists no exit codes"
expect 0 '' "$HEP_RUN" --help
grep -q 'Exit codes' out || fail "hep-run --help lists no exit codes"
expect 0 '' "$HEPC" --help-language
grep -q 'bandwidth' out || fail "no language reference"
finish
