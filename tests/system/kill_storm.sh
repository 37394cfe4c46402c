#!/usr/bin/env bash
# Ring "system": the kill storm, 20 kills with a new seed (printed), long: 500 kills.
set -euo pipefail
here="$(dirname "${BASH_SOURCE[0]}")"
if [[ ${DRAY_LENGTH:-short} == long ]]; then set -- --kills 500 --tasks 500000 "$@"; fi
exec "$here/kill_storm" "$@"
