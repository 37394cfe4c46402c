#!/usr/bin/env bash
# Ring "system": detection.py says what it does.
exec python3 "$(dirname "${BASH_SOURCE[0]}")/detection.py" "$@"
