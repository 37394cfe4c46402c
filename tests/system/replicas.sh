#!/usr/bin/env bash
# Ring "system": replicas.py says what it does.
exec python3 "$(dirname "${BASH_SOURCE[0]}")/replicas.py" "$@"
