#!/usr/bin/env bash
# Sets everything up, checks style and types, and runs the tests.
#   bash scripts/test.sh [--slow] [pytest's options]    --slow runs those that take minutes, too
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" demo,dev
cd "$ROOT"
select=(-m "not slow")
if [ "${1:-}" = --slow ]; then select=(-m "slow or not slow"); shift; fi
ruff check .
ruff format --check .
mypy
pytest "${select[@]}" "$@"
