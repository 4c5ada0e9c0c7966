# The report as it looks: no class without a rule, no swatch without a colour, nothing cut off, overlapping or too pale,
# in a wide and a narrow window, light, dark and on paper. Sources are checked everywhere, pages where a browser is.
# builds: fast  seconds: 8
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
samples=$HEP_SOURCE/samples

# Every class that sources name, and those they number, has a rule.
python3 - "$HEP_SOURCE" <<'PYTHON' || fail "classes and rules"
import glob, os, re, sys
source = sys.argv[1]
css = open(os.path.join(source, "backends/report.css")).read()
js = open(os.path.join(source, "backends/report.js")).read()
used = set()
for path in glob.glob(source + "/backends/html*.c") + [source + "/hepc/explain_html.c"]:
    for text in re.findall(r'class=\\"([^"\\]*)\\"', open(path).read()):
        used |= {name for name in text.split() if "%" not in name}
for text in re.findall(r"""classList\.\w+\('([\w-]+)'|'class': '([\w-]+)'""", js):
    used |= {name for name in text if name}
kinds = re.findall(r"^HEP_NAME\(BUFFER_", open(source + "/ir/names.def").read(), re.M)
assert kinds
used |= {"k%d" % i for i in range(len(kinds))}
colours = re.search(r"DOMAIN_COLOURS = (\d+)", open(source + "/backends/html_cluster.c").read()).group(1)
used |= {"d%d" % i for i in range(int(colours))}
rules = set(re.findall(r"\.([A-Za-z][\w-]*)", re.sub(r"\d*\.\d+", "", css)))
missing = used - rules
assert len(used) > 60, used
assert not missing, "classes without a rule: %s" % sorted(missing)
fixed = [width for width in re.findall(r"min-width: (\d+)px", css) if int(width) > 160]
assert not fixed, "widths that a narrow window does not have: %s" % fixed
PYTHON

# Bars of the comparison: the best baseline takes two thirds of the column, what takes more than 1.5 times as long is cut.
expect 0 '' "$HEPC" -o light.hepb "$samples/light.hep"
for input in "$samples/laptop.hep" light.hepb "$samples/training/qwen3_30b_a3b.hep"; do
  expect 0 '' "$HEPC" --emit=html -o bars.html "$input"
  python3 - <<'PYTHON' || fail "bars of $input"
import re
page = open("bars.html").read().split("<h2>Comparison</h2>")[1].split("</table>")[0]
rows = page.split("<tr")[2:]
units = {"s": 1, "ms": 1e-3, "us": 1e-6}
shown = [re.search(r'<td class="n">([\d.]+) (s|ms|us)</td>', row).groups() for row in rows]  # three digits
times = [float(number) * units[unit] for number, unit in shown]
assert len(times) > 3
best = [time for row, time in zip(rows, times) if "best baseline</small>" in row]
assert len(best) == 1
for row, time in zip(rows, times):
    width = sum(float(text) for text in re.findall(r"width:([\d.]+)%", row))
    longest = min(max(times), 1.5 * best[0])
    assert abs(width - min(100, 100 * time / longest)) < 1, (row, time)
    assert abs(time - longest) < 0.01 * longest or ('class="cut"' in row) == (time > longest), row
assert ("longer than drawn" in page) == ('class="cut"' in page)
PYTHON
done

browser=
for candidate in chromium chromium-browser google-chrome; do
  command -v "$candidate" >/dev/null && browser=$candidate && break
done
[ -n "$browser" ] || { echo "no browser: reports are not rendered"; finish; }

# prepare NAME WIDTH MEDIA PAGE: the report in a frame of that width, with report_problems.js at its end. Frames, because
# windows of headless browsers have a least width; media are rewritten, as the command line cannot choose them.
: >frames
prepare() {
  local name=$1 width=$2 media=$3 page=$4 rewrite='s|screen and (prefers-color-scheme: dark)|not all|'
  [ "$media" = dark ] && rewrite='s|screen and (prefers-color-scheme: dark)|all|'
  [ "$media" = print ] && rewrite='s|@media screen|@media not all|; s|@media print|@media all|'
  sed -e "$rewrite" -e 's|color-scheme: light dark|color-scheme: light|' \
    -e 's|<head>|<head><script>window.requestAnimationFrame = function (draw) { draw(0); };</script>|' "$page" |
    python3 -c 'import sys
page, script = sys.stdin.read(), open(sys.argv[1]).read()
sys.stdout.write(page.replace("</body>", "<script>" + script + "</script></body>"))' \
      "$HEP_SOURCE/tests/e2e/report_problems.js" >"$name.$media.$width.framed.html"
  echo "<iframe name=\"$name $media $width\" src=\"$name.$media.$width.framed.html\"" \
    "style=\"width:${width}px;height:900px;border:0\"></iframe>" >>frames
}

# A forward pass with its reasons, a training with returned gradients, sites that differ, layers that differ.
expect 0 '' "$HEPC" --emit=html -o forward.html "$samples/laptop.hep"
expect 0 '' "$HEPC" -o sites.hepb "$samples/six_sites.hep"
expect 0 '' "$HEPC" --emit=html -o training.html light.hepb
expect 0 '' "$HEPC" --emit=html -o micro.html "$samples/laptop_training.hep"
expect 0 '' "$HEPC" --emit=html -o sites.html sites.hepb
expect 0 '' "$HEPC" --emit=html -o layers.html "$samples/heterogeneous_layers.hep"
for name in forward training micro sites layers; do
  prepare $name 1280 light $name.html
  prepare $name 420 light $name.html
done
for name in training sites; do
  prepare $name 1280 dark $name.html
  prepare $name 1032 print $name.html # A4 landscape between its margins
done
# What the check is for: a swatch without a rule, text too long for a narrow window.
sed 's|^\.k0[, ].*||' forward.html >no_swatch.html
sed 's|<h2>Comparison</h2>|<h2 style="white-space:nowrap">A heading that is far too long for a window of 420 px</h2>|' \
  forward.html >too_long.html
prepare no_swatch 1280 light no_swatch.html
prepare too_long 420 light too_long.html

cat >look.html <<HTML
<body style="margin:0"><script>
addEventListener('message', function (event) {
  var line = document.createElement('pre');
  line.textContent = JSON.stringify(event.data);
  document.body.appendChild(line);
});
</script>$(cat frames)
HTML
timeout 200 "$browser" --headless --no-sandbox --disable-gpu --user-data-dir="$work/profile" \
  --allow-file-access-from-files --window-size=1400,1000 --virtual-time-budget=20000 --dump-dom \
  "file://$work/look.html" >dom 2>console
python3 - "$(wc -l <frames)" <<'PYTHON' || fail "reports as they look"
import html, json, re, sys
pages = [json.loads(html.unescape(text)) for text in re.findall(r"<pre>(.*?)</pre>", open("dom").read(), re.S)]
bad = len(pages) != int(sys.argv[1])
if bad:
    print("only %s of %s pages were looked at" % ([page["name"] for page in pages], sys.argv[1]))
wanted = {"no_swatch light 1280": r"class without a rule: .*k0", "too_long light 420": r"leaves the page|cut off"}
for page in pages:
    found = sorted(set(page["problems"]))
    if page["name"] in wanted:
        if not any(re.search(wanted[page["name"]], problem) for problem in found):
            bad = True
            print("%s: what was broken is not found" % page["name"])
        continue
    for problem in found:
        bad = True
        print("%s: %s" % (page["name"], problem))
    if page["labels"] == 0 and not page["name"].endswith(" 420"):
        bad = True
        print("%s: no labels in the timeline" % page["name"])
sys.exit(bad)
PYTHON
finish
