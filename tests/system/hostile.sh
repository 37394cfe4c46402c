#!/usr/bin/env bash
# Ring "system": hostile.py says what it does.
exec python3 "$(dirname "${BASH_SOURCE[0]}")/hostile.py" "$@"
