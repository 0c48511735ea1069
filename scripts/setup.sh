#!/usr/bin/env bash
# Makes .venv beside the code and installs what constraints.txt pins. Sourced by demo.sh, test.sh and flower_loopback.sh:
#   source setup.sh EXTRA[,EXTRA...]
# The extra `flower` wants older versions of some packages than constraints.txt pins, and gets .venv-flower of its own.
# Works from any folder, with a read-only home, with or without uv. Done in a moment where it was done before.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
EXTRAS="$1"
VENV="$ROOT/.venv"
PINS="$ROOT/constraints.txt"
OLDER='^(packaging|protobuf|rich|starlette|typer|uvicorn)=='  # that flwr 1.41 wants
BASE_PYTHON="${PYTHON:-python3}"

case ",$EXTRAS," in *,flower,*) VENV="$ROOT/.venv-flower"; PINS="$VENV/constraints.txt" ;; esac

fail() { echo "setup: $*" >&2; exit 1; }

make_venv() {
  command -v "$BASE_PYTHON" >/dev/null || fail "no $BASE_PYTHON; install Python 3.11 or newer, or set PYTHON"
  "$BASE_PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$BASE_PYTHON" --version) is too old; Python 3.11 or newer is needed (set PYTHON)"
  if ! "$BASE_PYTHON" -c 'import ensurepip' 2>/dev/null; then
    # Debian splits venv's pip off; uv makes an environment without it
    if command -v uv >/dev/null; then uv venv --quiet --seed --python "$BASE_PYTHON" "$VENV"; return; fi
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
      (apt-get update -qq && apt-get install -y -qq python3-venv) >/dev/null || fail "cannot install python3-venv"
    else
      fail "this Python cannot make environments; run: apt-get install python3-venv"
    fi
  fi
  "$BASE_PYTHON" -m venv "$VENV"
}

install() {
  local target="$ROOT[$EXTRAS]"
  # a home that cannot be written has no caches either
  if [ ! -w "${HOME:-/nonexistent}" ]; then
    export UV_CACHE_DIR="$VENV/.cache/uv" PIP_CACHE_DIR="$VENV/.cache/pip"
  fi
  # compiled here once: importing what is not compiled costs 10 s at every start
  if "$VENV/bin/python" -m pip install --quiet uv 2>/dev/null &&
    "$VENV/bin/uv" pip install --quiet --python "$VENV/bin/python" --compile-bytecode \
      -c "$PINS" -e "$target"; then
    return
  fi
  "$VENV/bin/python" -m pip install --quiet -c "$PINS" -e "$target"
}

STAMP="$VENV/.installed-$EXTRAS"
WANTED="$(cat "$ROOT/constraints.txt" "$ROOT/pyproject.toml" | cksum) $ROOT"
if [ ! -f "$STAMP" ] || [ "$(cat "$STAMP")" != "$WANTED" ]; then
  began=$SECONDS
  echo "setup: installing into $VENV (a few GB, some minutes)"
  [ -x "$VENV/bin/python" ] || { rm -rf "$VENV"; make_venv; }
  [ "$PINS" = "$ROOT/constraints.txt" ] || grep -vE "$OLDER" "$ROOT/constraints.txt" >"$PINS"
  install
  echo "$WANTED" >"$STAMP"
  echo "setup: done in $((SECONDS - began)) s"
fi
export PATH="$VENV/bin:$PATH"
