#!/usr/bin/env bash
# Sets everything up, checks style and types, and runs the tests.
#   bash scripts/test.sh [--slow] [pytest's options]    --slow runs those that take minutes or a browser, too
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" demo,dev
cd "$ROOT"
select=(-m "not slow")
if [ "${1:-}" = --slow ]; then
  select=(-m "slow or not slow")
  shift
  # pages are looked at in a browser
  if ! command -v chromium >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    (apt-get update -qq && apt-get install -y -qq chromium fonts-dejavu-core) >/dev/null 2>&1 ||
      echo "test: cannot install chromium; tests that need it are left out"
  fi
fi
ruff check .
ruff format --check .
mypy
# a file's tests share what they set up, so a file is one process's; each has a core to itself
export OMP_NUM_THREADS=1
pytest -n auto --dist loadfile "${select[@]}" "$@"
