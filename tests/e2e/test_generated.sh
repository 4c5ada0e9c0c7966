# What the programs print of their own tables: man pages, completion for shells, syntax files for editors.
# builds: dev
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
here=$HEP_SOURCE/tests/e2e
mkdir bin bash zsh fish vim vim/syntax
ln -s "$HEPC" bin/hepc
ln -s "$HEP_RUN" bin/hep-run
PATH=$work/bin:$PATH
for program in hepc hep-run; do
  "$program" --help >$program.help || fail "no help of $program"
  "$program" --generate=man >$program.1 || fail "no man page of $program"
  "$program" --generate=bash >bash/$program || fail "no completion of $program for bash"
  "$program" --generate=zsh >zsh/_$program || fail "no completion of $program for zsh"
  "$program" --generate=fish >fish/$program.fish || fail "no completion of $program for fish"
  expect 2 "expected man, bash, zsh" "$program" --generate=nothing
done
hepc --generate=vim >vim/syntax/hep.vim || fail "no syntax file for vim"
hepc --generate=textmate >hep.tmLanguage.json || fail "no syntax file for editors with TextMate grammars"
cp -r "$HEP_SOURCE/scripts/editors/vim/ftdetect" vim

# ---- man pages: every option of --usage, every example on a line of its own, no complaint of the formatter
page_as_text() { groff -man -Tascii -P-c -P-b -P-u -ww -rLL=200n "$1.1" 2>"$1.complaints"; }
for program in hepc hep-run; do
  "$program" --usage | grep -oE '\[--[a-z-]+' | tr -d '[' | sort -u >options
  [ "$(wc -l <options)" -ge 20 ] || fail "--usage of $program lists few options: $(cat options)"
  if command -v groff >/dev/null; then
    page_as_text $program >$program.txt
    [ -s $program.complaints ] && fail "man page of $program: $(cat $program.complaints)"
    while read -r option; do
      grep -qE -e "^ +(-., )?$option([=[ ]|$)" $program.txt || fail "the man page of $program lacks $option"
    done <options
  fi
  for section in NAME SYNOPSIS DESCRIPTION EXAMPLES OPTIONS 'EXIT CODES' 'SEE ALSO'; do
    grep -qx "\.SH $section" $program.1 || fail "the man page of $program lacks $section"
  done
  while read -r option; do
    for form in bash/$program zsh/_$program; do
      grep -qE -e "$option([^a-z-]|$)" "$form" || fail "$form lacks $option"
    done
    grep -qE -e " -l ${option#--} " fish/$program.fish || fail "completion for fish lacks $option of $program"
  done <options
done
if [ -f hepc.txt ]; then
  sed -n '/^ *Examples:/,/^ *Dumps:/p' hepc.help | grep '^ *hepc ' | sed 's/^ *//' >examples
  [ "$(wc -l <examples)" -ge 5 ] || fail "hepc --help gives few examples: $(cat examples)"
  while read -r example; do
    grep -qxF "       $example" hepc.txt || fail "the man page cuts the example '$example': $(cat hepc.txt)"
  done <examples
else
  echo "SKIP: no groff: man pages are not formatted"
fi

# ---- completion, as it is typed
touch one.hep one.hepb notes.txt "two words.hepb"
same() { # what, expected, shown
  [ "$2" = "$3" ] || fail "$1: shows '$3', not '$2'"
}
python3 "$here/terminal.py" bash "source bash/hepc; source bash/hep-run" \
  'hepc --expl' 'hepc --dump=i' 'hepc --dispatch n' 'hepc -o no' 'hep-run two' 'hep-run --engine h' 'hepc --dump-after h' >shown
mapfile -t shown <shown
same 'bash, an option' 'hepc --explain @@' "${shown[0]}"
same 'bash, a word after =' 'hepc --dump=ir @@' "${shown[1]}"
same 'bash, a word' 'hepc --dispatch naive @@' "${shown[2]}"
same 'bash, any file' 'hepc -o notes.txt @@' "${shown[3]}"
same 'bash, a plan with a blank in its name' 'hep-run two\ words.hepb @@' "${shown[4]}"
same 'bash, an engine' 'hep-run --engine host @@' "${shown[5]}"
same 'bash, a pass' 'hepc --dump-after hoist @@' "${shown[6]}"
if command -v zsh >/dev/null; then
  for form in zsh/_*; do zsh -n "$form" || fail "$form is no zsh"; done
  # shellcheck disable=SC2016 # zsh expands it
  python3 "$here/terminal.py" zsh 'fpath=($PWD/zsh $fpath); autoload -U compinit; compinit -u -D' \
    'hepc --expl' 'hepc --dispatch na' 'hepc --dump=i' >shown
  mapfile -t shown <shown
  [[ ${shown[0]} == 'hepc --explain '* ]] || fail "zsh, an option: ${shown[0]}"
  [[ ${shown[1]} == 'hepc --dispatch naive '* ]] || fail "zsh, a word: ${shown[1]}"
  [[ ${shown[2]} == 'hepc --dump=ir '* ]] || fail "zsh, a word after =: ${shown[2]}"
else
  echo "SKIP: no zsh: its completion is not run"
fi
if command -v fish >/dev/null; then
  ask_fish() { HOME=$work fish --no-config -c "source fish/$1.fish; complete -C '$2'" | cut -f1 | tr '\n' ' '; }
  same 'fish, words' 'dedup naive ' "$(ask_fish hepc 'hepc --dispatch ')"
  same 'fish, an option' '--explain ' "$(ask_fish hepc 'hepc --expl')"
  [[ $(ask_fish hep-run 'hep-run --routing ') == *balanced*learned*skewed* ]] || fail "fish, routing"
else
  echo "SKIP: no fish: its completion is not run"
fi

# ---- syntax files
hepc --help-language >language.md
python3 "$here/syntax_files.py" textmate hep.tmLanguage.json language.md || fail "the TextMate grammar"
if command -v vim >/dev/null && vim --version | grep -q '+syntax'; then
  python3 "$here/syntax_files.py" vim "$work/vim" language.md || fail "the syntax file for vim"
else
  echo "SKIP: no vim that colours: its syntax file is not run"
fi
python3 - "$HEP_SOURCE/scripts/editors/vscode" <<'PYTHON' || fail "the folder for VS Code"
import json, os, sys
package = json.load(open(os.path.join(sys.argv[1], "package.json")))
json.load(open(os.path.join(sys.argv[1], "language-configuration.json")))
assert package["contributes"]["grammars"][0]["path"] == "./syntaxes/hep.tmLanguage.json"
PYTHON
finish
