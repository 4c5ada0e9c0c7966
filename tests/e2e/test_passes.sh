# -O0, --passes, --dump-before and --dump-after: every schedule verifies, none is slower or larger for a pass.
# builds: fast  seconds: 4
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
samples=$HEP_SOURCE/samples

cat >table.py <<'PYTHON'
import re, sys
scale = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "s": 1, "ms": 1e-3, "us": 1e-6}
rows = []
for line in open("out"):
    match = re.match(r"(as lowered \(-O0\)|\+ \w+) +(\d+) +([\d.]+) (\w+) +([\d.]+) (\w+)", line)
    if match:
        rows.append((match[1], int(match[2]), float(match[3]) * scale[match[4]], float(match[5]) * scale[match[6]]))
assert [row[0] for row in rows] == ["as lowered (-O0)", "+ hoist", "+ overlap", "+ yield", "+ prune", "+ reuse"], rows
for before, after in zip(rows, rows[1:]):
    assert after[3] <= before[3], ("slower", before, after)
    assert after[2] <= before[2], ("larger", before, after)
assert rows[4][1] <= rows[3][1], ("prune adds waits", rows)
print(sys.argv[1], rows[0][3] / rows[-1][3], rows[0][2] / max(rows[-1][2], 1))
PYTHON
for sample in laptop two_dc six_sites skewed half_precision heterogeneous_layers mixtral_8x7b; do
  sample=$samples/$sample.hep
  expect 0 '' "$HEPC" --passes "$sample"
  python3 table.py "$(basename "$sample")" >>gains || fail "$sample"
done
awk '$2 > 1.1 { faster = 1 } $3 > 2 { smaller = 1 } END { exit !(faster && smaller) }' gains ||
  fail "no sample gains from the passes: $(cat gains)"

# Dense weights are gathered again over the slow link, beside gradients.
sed 's/pass = training/pass = training  once_dense = none/' "$samples/laptop_training.hep" >again.hep
grep -q 'once_dense = none' again.hep || fail "the sample is another one"
for sample in "$samples/two_dc.hep" "$samples/six_sites.hep" again.hep; do
  options=("$sample")
  [ "$sample" != "$samples/six_sites.hep" ] || options+=(--prefetch=1) # gathers that do not run ahead freely wait, some twice
  expect 0 '' "$HEPC" -O0 "${options[@]}" -o plain.hepb
  expect 0 '' "$HEPC" --check plain.hepb
  for pass in hoist overlap yield prune reuse; do
    expect 0 '' "$HEPC" --dump=ir --dump-before $pass -o before.ir "${options[@]}"
    expect 0 '' "$HEPC" --dump=ir --dump-after=$pass -o after.ir "${options[@]}"
    expect 0 '' "$HEPC" --check before.ir
    expect 0 '' "$HEPC" --check after.ir
    cmp -s before.ir after.ir || echo $pass >>changed
  done
done
[ "$(sort -u changed | wc -l)" = 5 ] || fail "passes that change none of the samples: $(sort -u changed)"
expect 0 '' "$HEPC" -O0 "$samples/laptop.hep" -o plain.hepb
expect 0 '' "$HEP_RUN" --iterations 1 --check plain.hepb

expect 2 "unknown pass 'hosit'" "$HEPC" --dump=ir --dump-before hosit "$samples/laptop.hep"
expect 2 'one of --dump-before' "$HEPC" --dump=ir --dump-before hoist --dump-after hoist "$samples/laptop.hep"
expect 2 'leaves all passes out' "$HEPC" --dump=ir --dump-after hoist -O0 "$samples/laptop.hep"
expect 2 'need --dump' "$HEPC" --dump-after hoist "$samples/laptop.hep"
expect 2 'takes a number' "$HEPC" -O2 "$samples/laptop.hep"
expect 2 'needs a .hep file' "$HEPC" -O0 plain.hepb
expect 2 'do not go together' "$HEPC" --passes --simulate "$samples/laptop.hep"
expect 4 'needs .* per GPU' "$HEPC" -O0 "$samples/deepseek_v3.hep"
finish
