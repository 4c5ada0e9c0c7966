# cmake --install into a path with a space: programs run from there, with presets and samples; what is generated lies
# where shells, man and editors look; uninstall leaves nothing. A Debian package, installed into a root of its own.
# builds: fast  seconds: 10
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
build=$(dirname "$(dirname "$HEPC")")
prefix="$work/a folder"
cp "$build/install_manifest.txt" manifest.before 2>/dev/null
restore() { # the manifest of the user's own installation
  if [ -f "$work/manifest.before" ]; then cp "$work/manifest.before" "$build/install_manifest.txt"; fi
  rm -rf "$work"
}
trap restore EXIT

cat >node.hep <<'HEP'
cluster c { level dc { count = 2  bandwidth = 10 Gbit/s } include "h200.hep" }
model m { layers = 2  hidden = 64  heads = 4  vocabulary = 256  sequence = 32  moe { experts = 16 } }
HEP
check_tree() { # root
  expect 0 '' "$1/bin/hepc" "$1/share/hep/samples/laptop.hep" -o laptop.hepb
  if [ "${HEP_HAS_CUDA:-OFF}" != OFF ]; then
    expect 0 '' "$1/bin/hep-run" --version
    grep -qF "CUDA engine: $1/bin/../lib/hep/hep-cuda.so" out || fail "the CUDA engine is not installed: $(cat out)"
    expect 5 'no CUDA device' env CUDA_VISIBLE_DEVICES= "$1/bin/hep-run" --engine cuda laptop.hepb
  fi
  expect 0 '' "$1/bin/hepc" --check node.hep
  expect 0 '' "$1/bin/hep-run" --iterations 1 laptop.hepb
  local file
  for file in share/doc/hep/README.md share/doc/hep/language.md share/doc/hep/loss_time.svg share/hep/presets/h100.hep \
    share/man/man1/hepc.1 share/man/man1/hep-run.1 share/bash-completion/completions/hepc \
    share/bash-completion/completions/hep-run share/fish/vendor_completions.d/hep-run.fish \
    share/vim/vimfiles/syntax/hep.vim share/vim/vimfiles/ftdetect/hep.vim share/hep/vscode/package.json \
    share/hep/vscode/syntaxes/hep.tmLanguage.json; do
    [ -s "$1/$file" ] || [ -s "$1/$file.gz" ] || fail "not installed: $file"
  done
  # Figures that the pages show are there.
  grep -ohE '\(([a-z_]+\.svg)\)' "$1"/share/doc/hep/*.md | tr -d '()' | sort -u | while read -r file; do
    [ -s "$1/share/doc/hep/$file" ] || echo "$file"
  done >missing
  [ -s missing ] && fail "figures are not installed: $(cat missing)"
}

expect 0 '' cmake --install "$build" --prefix "$prefix" || finish
check_tree "$prefix"
for program in hepc hep-run; do
  [ -s "$prefix/share/zsh/site-functions/_$program" ] || fail "no completion of $program for zsh"
done

# What somebody else put there stays.
echo mine >"$prefix/share/hep/presets/mine.hep"
expect 0 '' cmake --build "$build" --target uninstall
find "$prefix" -type f >left
[ "$(cat left)" = "$prefix/share/hep/presets/mine.hep" ] || fail "uninstall leaves $(cat left)"
[ -d "$prefix/share/hep/samples" ] && fail "uninstall leaves empty folders"
expect 1 'nothing was installed' cmake -DMANIFEST="$build/install_manifest.txt" \
  -P "$HEP_SOURCE/scripts/cmake/HepUninstall.cmake"

# ---- a package
if ! command -v dpkg-shlibdeps >/dev/null || ! command -v file >/dev/null || ! command -v cpack >/dev/null; then
  echo "SKIP: no package without dpkg-dev, file and cpack"
  finish
fi
expect 0 '' cpack --config "$build/CPackConfig.cmake" -G DEB -B "$work/package" || { cat out; finish; }
packages=("$work"/package/hep_*.deb)
[ -f "${packages[0]}" ] || fail "cpack makes no package"
if [ "${HEP_HAS_CUDA:-OFF}" != OFF ]; then
  packages+=("$work"/package/hep-cuda_*.deb)
  dpkg-deb --field "${packages[1]}" Depends | grep -q '^hep (= ' || fail "the CUDA engine does not depend on its hep-run"
fi
dpkg-deb --field "${packages[0]}" Depends >depends
grep -iE 'cuda|cublas|nccl' depends && fail "the package depends on CUDA"
for library in libc6 libopenblas libcjson libnettle zlib1g libglpk; do
  grep -q "$library" depends || fail "the package does not depend on $library: $(cat depends)"
done
root=$work/root
mkdir -p "$root"/var/lib/dpkg/{info,updates,triggers}
touch "$root"/var/lib/dpkg/{status,available}
# The libraries are the machine's own, and what dpkg needs is not always where users look for programs.
expect 0 '' env PATH="$PATH:/usr/sbin:/sbin" dpkg --root="$root" --log=/dev/null --force-depends --force-not-root \
  --force-script-chrootless --install "${packages[@]}" || finish
check_tree "$root/usr"
for program in hepc hep-run; do
  [ -s "$root/usr/share/zsh/vendor-completions/_$program" ] || fail "no completion of $program for zsh"
done
finish
