#!/usr/bin/env bash
# Ring "system": overload.py says what it does.
exec python3 "$(dirname "${BASH_SOURCE[0]}")/overload.py" "$@"
