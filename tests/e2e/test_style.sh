# House rules that a machine can check: 120 columns, no tabs, no trailing blanks, no unfinished places.
# builds: dev
. "$(dirname "$0")/lib.sh"
cd "$HEP_SOURCE" || exit 1
mapfile -t sources < <(find hepc compiler grammar ir engines backends runtime kernels tests -name '*.[chly]' -o -name '*.def' -o -name '*.cu')
awk 'length > 120 {print FILENAME ":" FNR ": longer than 120 columns"; bad = 1} /\t/ {print FILENAME ":" FNR ": tab"; bad = 1}
  / $/ {print FILENAME ":" FNR ": blank at the end"; bad = 1} END {exit bad}' "${sources[@]}" || fail "layout"
grep -nE '\b(TODO|FIXME|XXX)\b' "${sources[@]}" && fail "unfinished places"
# What a comment refers to is in the tree, or published.
grep -niE 'design (section|document)|design\.md' "${sources[@]}" && fail "references to documents outside of the tree"
while read -r document; do
  [ -f "$document" ] || fail "$document is referred to, but does not exist"
done < <(grep -ohE '\bdocs/[a-z-]+\.md' "${sources[@]}" README.md | sort -u)
for header in "${sources[@]}"; do
  [[ $header != *.h || $header == tests/* ]] || grep -q '#ifndef HEP_' "$header" || fail "$header has no include guard"
done
# Below the mains nothing ends the process, and nothing knows exit codes. What may: abort where memory has run out
# without a guard, which is a mistake of ours; the table of exit codes; what prints it for --help and man pages.
mains='hepc/main.c|runtime/main.c'
grep -rnE --include='*.[chly]' --include='*.cu' '(^|[^_.>a-z])(_?exit|abort|quick_exit)\(' \
  hepc compiler grammar ir engines backends runtime kernels | grep -vE "^($mains|ir/base/arena\.c):" &&
  fail "library code ends the process"
grep -rnE --include='*.[chly]' --include='*.cu' '\bEXIT_[A-Z]+\b|exit_code_of|exit_codes\.h' \
  hepc compiler grammar ir engines backends runtime kernels |
  grep -vE "^($mains|ir/base/exit_codes\.[ch]|ir/base/fault\.h|(hepc|runtime)/options\.c|ir/base/command_man\.c):" &&
  fail "library code knows exit codes"
# Nor prints anything: what went wrong travels to main as a Fault (ir/base/fault.h), whatever a layer keeps inside.
grep -rnwE --include='*.[chly]' --include='*.cu' 'stderr|STDERR_FILENO|perror' \
  hepc compiler grammar ir backends runtime kernels | grep -vE "^($mains):" && fail "library code prints messages"
grep -rnE --include='*.[chly]' 'char \*\*(error|reason|problem)\b|char (error|reason|problem)\[' \
  hepc compiler grammar ir backends runtime kernels/host && fail "errors that are not faults"
grep -rnE --include='*.h' '^const char \*.*\bMUST_CHECK' hepc compiler grammar ir backends runtime kernels/host &&
  fail "functions that return a reason instead of filling a fault"
mapfile -t failing < <(find hepc compiler grammar ir backends runtime -name '*.[ch]')
python3 tests/e2e/unchecked.py "${failing[@]}" || fail "statuses that nobody looks at"
printf '%s\n' 'bool f(int a, Fault *fault);' 'static bool g(Fault *fault)' '{' '    return fault_set(fault, 1, "x");' '}' \
  'void h(Fault *fault)' '{' '    g(fault);' '    f(1, fault);' '    if (f(2, fault))' '        ops->k(fault);' '}' \
  'struct T {' '    bool (*k)(Fault *fault);' '};' >"$work/unchecked.c"
expect 1 '' python3 tests/e2e/unchecked.py "$work/unchecked.c"
grep -q ':9: the result of f ' "$work/out" && grep -q ':11: the result of k ' "$work/out" &&
  [ "$(wc -l <"$work/out")" = 2 ] || fail "statuses that nobody looks at are not found: $(cat "$work/out")"
# Which folders include which others.
never() { # FOLDERS that do not include FOLDERS
  local folders
  read -ra folders <<<"$1"
  grep -rnE --include='*.[chly]' --include='*.cu' "#include \"(${2// /|})/" "${folders[@]}" &&
    fail "a dependency in the wrong direction"
}
never "ir grammar engines kernels runtime" "hepc compiler backends"
never "ir engines kernels runtime" "grammar"
never "ir grammar engines kernels backends compiler hepc" "runtime"
never "ir grammar backends" "engines"
never "ir engines" "kernels"
never "compiler" "hepc backends kernels"
never "backends" "hepc compiler grammar kernels"
# A layer includes those named before it; what lies outside of layers puts them together.
layers_in_order() { # folder, layers...
  local folder=$1 layer later
  shift
  while [ $# -gt 1 ]; do
    layer=$1
    shift
    later=$(IFS='|' && echo "$*")
    grep -rnE "#include \"$folder/($later)/" "$folder/$layer" && fail "$folder/$layer includes a layer after it"
  done
}
layers_in_order runtime base comm engine library training checkpoint calibrate plugin check job report
layers_in_order compiler spec frontend model lowering solve placement explain
layers_in_order ir base text verify simulate load
# No circle of calls between files, none of includes between folders; and a circle would be found.
folders=(hepc compiler grammar ir engines backends runtime kernels)
build=$(dirname "$(dirname "$HEPC")")
python3 tests/e2e/circles.py "$build" . "${folders[@]}" || fail "circles between files or folders"
mkdir -p "$work/toy/ir/base"
printf '#include "ir/base/b.h"\nint b(void);\nint a(void);\nint a(void) { return b(); }\n' >"$work/toy/ir/a.c"
printf '#include "ir/a.h"\nint a(void);\nint b(void);\nint b(void) { return a(); }\n' >"$work/toy/ir/base/b.c"
touch "$work/toy/ir/a.h" "$work/toy/ir/base/b.h"
for file in a base/b; do
  "${CC:-cc}" -I "$work/toy" -c "$work/toy/ir/$file.c" -o "$work/toy/ir/$file.o" || fail "no toy to look for circles in"
  printf '{"file": "%s.c", "directory": "%s", "command": "cc -o %s.o"}\n' "$work/toy/ir/$file" "$work/toy/ir" "$file"
done | paste -sd, | sed 's/^/[/; s/$/]/' >"$work/toy/compile_commands.json"
expect 1 '' python3 tests/e2e/circles.py "$work/toy" "$work/toy" ir
grep -q 'ir/a.c -> ir/base/b.c: b' "$work/out" || fail "a circle of calls is not found: $(cat "$work/out")"
grep -q 'ir/base -> ir: ir/a.h' "$work/out" || fail "a circle of includes is not found: $(cat "$work/out")"
# Functions fit a screen, or say why not. Kernels take every operand of their op, as BLAS does.
mapfile -t products < <(printf '%s\n' "${sources[@]}" | grep -E '\.(c|h|cu)$' | grep -v '^tests/')
python3 tests/e2e/function_sizes.py --any-parameters=kernels "${products[@]}" || fail "functions too large"
{
  printf '// Many parameters because nobody counts.\nint f(int a, int b, int c, int d, int e, int f, int g)\n{\n}\n'
  printf 'int g(int a, int b, int c, int d, int e, int f, int g)\n{\n}\nint h(void)\n{\n'
  yes '    h();' | head -n 60
  printf '}\n'
} >"$work/large.c"
expect 1 '' python3 tests/e2e/function_sizes.py "$work/large.c"
grep -q "'g' has 7 parameters" "$work/out" || fail "many parameters are not found: $(cat "$work/out")"
grep -q "'h' has 63 lines" "$work/out" || fail "a long function is not found: $(cat "$work/out")"
grep -q "'f'" "$work/out" && fail "a reason is not found"
# docs/architecture.md leads somewhere: the files that it names are there, and it names every folder with sources.
grep -oE '`[a-z_]+/[a-z_/*.]+`' docs/architecture.md | tr -d '`' | sort -u | while read -r path; do
  compgen -G "$path" >/dev/null || compgen -G "tests/$path" >/dev/null || echo "$path"
done >"$work/missing"
[ -s "$work/missing" ] && fail "docs/architecture.md names what is not there: $(tr '\n' ' ' <"$work/missing")"
# So are files that it names without their folder, and words of the sources.
find "${folders[@]}" tests scripts -type f | sed 's|.*/||' | sort -u >"$work/names"
grep -ohE '[(` ][a-z_]+[a-z_*0-9]*\.(c|h|def|cu|cpp|css|js)\b' docs/architecture.md | tr -d '(` ' | sort -u | while read -r name; do
  pattern=${name//./\\.}
  grep -qxE "${pattern//\*/.*}" "$work/names" || echo "$name"
done >"$work/missing"
grep -ohE '`[A-Za-z]+(_[A-Za-z]+)*(\(.*\))?`' docs/architecture.md | sed 's/(.*//' | tr -d '`' | sort -u |
  grep -v '^x_' | while read -r word; do
    grep -rqw -e "$word" "${folders[@]}" tests scripts CMakePresets.json || echo "$word"
  done >>"$work/missing"
[ -s "$work/missing" ] && fail "docs/architecture.md names what no source has: $(tr '\n' ' ' <"$work/missing")"
for folder in $(printf '%s\n' "${sources[@]%/*}" | grep -v '^tests' | sort -u); do
  grep -qE "^\| \`$folder/?\`" docs/architecture.md || fail "docs/architecture.md does not name $folder"
done
# Words that docs/glossary.md replaces do not come back into what users read: strings of the programs, pages, samples.
old_words='(behind (iteration|the last|every)|wish(es)?|gets? on|go(es)? on (from|bit)|dealt( out)?|how-manieth|unlike|anew'
old_words+='|has not the|rooms? (is|includes)|travels? light|weights shrink|by its input)'
find_old_words() { # FILES: in strings of sources, and in all of other files
  awk -v words="(^|[^a-z_])$old_words([^a-z_]|$)" '
    {
      line = tolower($0)
      if (FILENAME ~ /\.(c|h|def|l|y|cu)$/) {
        text = ""
        while (match(line, /"([^"\\]|\\.)*"/)) {
          text = text " " substr(line, RSTART, RLENGTH)
          line = substr(line, RSTART + RLENGTH)
        }
        line = text
      }
      if (line ~ words) print FILENAME ":" FNR ": " $0
    }' "$@"
}
mapfile -t read_by_users < <(printf '%s\n' "${products[@]}" grammar/*.def ir/*.def README.md samples/*.hep
  find docs -name '*.md' ! -name glossary.md ! -name results.md)
find_old_words "${read_by_users[@]}" | grep . && fail "words that docs/glossary.md replaces"
printf 'puts("a domain wish");\n// a wish\nint unlike;\n' >"$work/words.c"
[ "$(find_old_words "$work/words.c")" = "$work/words.c:1: puts(\"a domain wish\");" ] || fail "an old word is not found"
finish
