#!/usr/bin/env bash
# Ring "system": recovery.py says what it does.
exec python3 "$(dirname "${BASH_SOURCE[0]}")/recovery.py" "$@"
