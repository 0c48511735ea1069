#!/usr/bin/env bash
# Sets everything up, trains configs/easy_vqa.yaml and prints the test accuracy and where the run lies.
#   bash scripts/demo.sh [--KEY VALUE ...]    as crossmodal fit takes them
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" demo
cd "$ROOT"
crossmodal fit --config configs/easy_vqa.yaml "$@"
