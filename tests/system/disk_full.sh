#!/usr/bin/env bash
# Ring "system": disk_full.py says what it does.
exec python3 "$(dirname "${BASH_SOURCE[0]}")/disk_full.py" "$@"
