# One style of C: sizeof with parentheses, strings compared with == or != 0, no braces around a single line, layout as
# clang-format makes it (.clang-format), and what clang-tidy finds (.clang-tidy). Most of the time is clang-tidy's, which
# parses 300 files.
# builds: dev  seconds: 15
. "$(dirname "$0")/lib.sh"
cd "$HEP_SOURCE" || exit 1
mapfile -t sources < <(find . -name '*.[ch]' ! -path './build/*' ! -path './kernels/cuda/*' | sed 's|^\./||' | sort)
[ "${#sources[@]}" -gt 200 ] || fail "only ${#sources[@]} files are looked at"

bare_words() { # FILES: sizeof without parentheses, !strcmp, braces around one line
  awk '
    function code(line) { gsub(/"([^"\\]|\\.)*"/, "\"\"", line); sub(/\/\/.*/, "", line); return line }
    FNR == 1 { head = body = "" }
    {
      line = code($0)
      if (line ~ /(^|[^a-z_])sizeof [^(]/) print FILENAME ":" FNR ": sizeof without parentheses:" $0
      if (line ~ /![ (]*(strn?cmp|memcmp|strcasecmp)\(/) print FILENAME ":" FNR ": compare with == 0:" $0
      indent = match(head, /[^ ]/) - 1
      if (head ~ /^ *(if|for|while) \(.*\) {$/ && body ~ /;$/ && body !~ /^ *(if|for|while|do) / &&
          line == substr(head, 1, indent) "}")
        print FILENAME ":" FNR - 2 ": braces around one line:" head
      head = body; body = line
    }' "$@"
}
bare_words "${sources[@]}" | grep . && fail "another style"
printf 'int f(int *p) { return sizeof *p + !strcmp("", "a"); } // sizeof *p\nvoid g(void)\n{\n    if (f) {\n        g();\n    }\n}\n' \
  >"$work/bare.c"
[ "$(bare_words "$work/bare.c" | wc -l)" = 3 ] || fail "another style is not found: $(bare_words "$work/bare.c")"

skipped=
version() { "$1" --version 2>/dev/null | sed -n 's/.*version \([0-9]*\)\..*/\1/p'; }
# These two agree on all of the tree; what others say of it nobody has looked at.
case $(version clang-format) in
14 | 19)
  clang-format --dry-run --Werror "${sources[@]}" 2>&1 | grep 'error:' >"$work/layout"
  [ ! -s "$work/layout" ] || fail "layout: run clang-format -i on these files: $(head -n 20 "$work/layout")"
  printf 'int  f(void) {return 1;}\n' >"$work/layout.c"
  expect 1 'error:' clang-format --style=file:.clang-format --dry-run --Werror "$work/layout.c"
  ;;
*) skipped="clang-format is neither 14 nor 19" ;;
esac

case $(version clang-tidy) in
14 | 19)
  build=$(dirname "$(dirname "$HEPC")")
  mapfile -t compiled < <(printf '%s\n' "${sources[@]}" | grep '\.c$' | grep -v ^tests/ |
    grep -Fxf <(sed -n "s|^ *\"file\": \"$HEP_SOURCE/\(.*\)\",\?\$|\1|p" "$build/compile_commands.json"))
  [ "${#compiled[@]}" -gt 100 ] || fail "only ${#compiled[@]} files are compiled"
  clang-tidy -p "$build" --quiet "${compiled[@]}" >"$work/tidy" 2>/dev/null || { grep -E 'error:' "$work/tidy"; fail "clang-tidy"; }
  printf 'int strcmp(const char *, const char *);\nint f(const char *a);\nint f(const char *a)\n{\n    return !strcmp(a, "b") ? 2 : a || a;\n}\n' \
    >"$work/tidy.c"
  expect 1 '' clang-tidy --config-file=.clang-tidy --quiet "$work/tidy.c" --
  grep -q suspicious-string-compare "$work/out" && grep -q redundant-expression "$work/out" ||
    fail "clang-tidy finds nothing: $(cat "$work/out")"
  ;;
*) skipped="clang-tidy is neither 14 nor 19" ;;
esac
[ -z "$skipped" ] || [ "$failures" != 0 ] || { echo "SKIP: $skipped"; exit 77; }
finish
