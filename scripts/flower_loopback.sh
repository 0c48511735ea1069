#!/usr/bin/env bash
# Sets .venv-flower up, and trains an experiment with SuperNodes of Flower on this machine; see flower_loopback.py.
#   bash scripts/flower_loopback.sh [--config FILE] [--nodes 3] [--rounds N] [--KEY VALUE ...]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" demo,flower
cd "$ROOT"
exec python scripts/flower_loopback.py "$@"
