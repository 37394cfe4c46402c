#!/usr/bin/env bash
# Ring "system": isolate.py says what it does.
exec python3 "$(dirname "${BASH_SOURCE[0]}")/isolate.py" "$@"
