#!/usr/bin/env bash
# Sets everything up, trains configs/easy_vqa.yaml, prints the test accuracy and where the run lies, and writes a page
# about it.
#   bash scripts/demo.sh [--KEY VALUE ...]    as crossmodal fit takes them
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" demo
cd "$ROOT"
began="$(mktemp)"
crossmodal fit --config configs/easy_vqa.yaml "$@"
# wherever below this folder --name and --runs have put it
figures="$(find . -name metrics.json -newer "$began" -not -path './.venv/*' | head -n 1)"
rm -f "$began"
[ -z "$figures" ] || crossmodal report "$(dirname "${figures#./}")"
