#!/usr/bin/env bash
# Ring "system": calls_stream.py says what it does.
exec python3 "$(dirname "${BASH_SOURCE[0]}")/calls_stream.py" "$@"
