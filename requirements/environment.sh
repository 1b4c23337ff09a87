#!/bin/sh
# environment.sh VENV PYTHON LOCK: make the environment in which everything runs, or leave it as it is where it has the
# packages of these locks already: by their content, which VENV/installed-LOCK keeps. The one before stays until the new one is
# whole, and comes back where it fails. What was not made here is kept.
set -eu
cd "$(dirname "$0")/.."
venv=$1 python=$2 lock=$3 marker=$1/installed-$3 before=$1.before
files="requirements/$lock.txt requirements/converter.txt requirements/install.sh"
if [ "$lock" = cpu ]; then files="$files requirements/torch-cpu.txt"; else files="$files requirements/nvcc.txt"; fi
locks=$(cat $files | sha256sum | cut -d' ' -f1)
kept() {
  echo "$venv $1: it is kept as it is"
  echo "hint: if it has the packages of requirements/$lock.txt, say so: echo $locks > $marker; if nobody needs it, take it away: $2"
  exit 1
}
if [ -d "$before" ]; then rm -rf "$venv"; mv "$before" "$venv"; fi # a run was killed: the new one is not whole
if [ "$(cat "$marker" 2>/dev/null)" = "$locks" ]; then touch "$marker"; exit; fi
if [ -L "$venv" ]; then kept "is a link to $(readlink -f "$venv")" "rm $venv"; fi
if mountpoint -q "$venv" 2>/dev/null; then kept "is mounted here from elsewhere" "umount $venv"; fi
if [ -e "$venv" ] && ! ls "$venv"/installed-* >/dev/null 2>&1; then kept "was not made by make" "rm -rf $venv"; fi
test -n "$python" || { echo "the $lock lock needs Python 3.11 or 3.12, and none was found: name one: make PYTHON=/path/to/python"; exit 1; }
if [ ! -e .git ]; then
  echo "this folder is no git clone: a ZIP download lacks the commit that llama.cpp is pinned to"
  echo "hint: git clone the repository instead, and work there"
  exit 1
fi
echo "installing the locked packages into $venv (minutes, once)"
if [ -e "$venv" ]; then mv "$venv" "$before"; fi
back() {
  rm -rf "$venv"
  if [ -d "$before" ]; then mv "$before" "$venv"; echo "the environment before is back"; fi
  exit 1
}
trap back INT TERM HUP
filled() {
  if [ "$lock" = cpu ]; then requirements/install.sh any-cpu; else requirements/install.sh "$lock" && requirements/install.sh toolkit; fi
}
"$python" -m venv "$venv" && filled && echo "$locks" > "$marker" || back
rm -rf "$before"
