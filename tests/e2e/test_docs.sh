# What the documentation says that programs print, take and are made of: messages, options, dumps, exit codes, keys,
# fields of JSON, and files. Both ways where a list is meant to be whole.
# builds: fast  seconds: 5
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
"$HEPC" --help >hepc.help && "$HEP_RUN" --help >hep-run.help && "$HEPC" --help-language >language.help || fail "no help"
"$HEPC" "$HEP_SOURCE/samples/laptop.hep" -o laptop.hepb >/dev/null || fail "no plan"
"$HEPC" --explain --json "$HEP_SOURCE/samples/laptop.hep" >explain.json || fail "no explanation"
"$HEPC" --dump=json "$HEP_SOURCE/samples/laptop.hep" >plan.json || fail "no plan as JSON"
"$HEPC" --sweep batch=1,2 "$HEP_SOURCE/samples/laptop.hep" -o sweep.json || fail "no sweep"
"$HEP_RUN" -n 1 --check --json=run.json --trace trace.json laptop.hepb >/dev/null || fail "no run"
python3 "$HEP_SOURCE/tests/e2e/docs_claims.py" "$HEP_SOURCE" || fail "claims of the documentation"
# Descriptions in the documentation are read as they stand; whole ones pass the check.
python3 - "$HEP_SOURCE" >blocks <<'PYTHON'
import glob, re, sys
count = 0
for page in sorted(glob.glob(sys.argv[1] + "/docs/*.md") + [sys.argv[1] + "/README.md"]):
    text = open(page).read()
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    blocks += [re.sub("^    ", "", block, flags=re.M) for block in re.findall(r"(?:^    .*\n|^\n(?=    ))+", text, re.M)]
    for block in blocks:
        if re.search(r"^(cluster|model|plan|training|let)\b.*[{=]", block, re.M) and "$ " not in block and "<<" not in block:
            count += 1
            open("block%02d.hep" % count, "w").write(block)
            print("block%02d.hep" % count, "check" if re.search("^cluster", block, re.M) and re.search(
                r"^model \w+ \{", block, re.M) else "read", page)
PYTHON
[ "$(grep -c ' check ' blocks)" -ge 2 ] && [ "$(grep -c . blocks)" -ge 4 ] || fail "descriptions found: $(cat blocks)"
while read -r file how page; do
  if [ "$how" = check ]; then
    expect 0 '' "$HEPC" --check "$file" || fail "a description in $page: $(cat "$file")"
  else
    expect 0 '' "$HEPC" --dump=ast "$file" || fail "a part of a description in $page: $(cat "$file")"
  fi
done <blocks
finish
