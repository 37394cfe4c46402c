#!/usr/bin/env bash
# Ring "system": long_task.py says what it does.
exec python3 "$(dirname "${BASH_SOURCE[0]}")/long_task.py" "$@"
