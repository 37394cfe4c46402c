#!/usr/bin/env bash
# Checks that the cores reach no clock, file, socket, thread, environment or random device: none of
# their object files may refer to such a symbol.
#
# usage: scripts/check_purity.sh [build directory]      default: build/release
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case "${1:-}" in
  -h | --help) usage && exit 0 ;;
esac
build="${1:-$ROOT/build/release}"

clocks='(clock_gettime|gettimeofday|clock|time|nanosleep|usleep|sleep)|.*::now\(\)'
files='(open|open64|openat|openat64|creat|fopen|fopen64|freopen|unlink|rename|mkdir|stat|fsync|fdatasync|pwrite|pwrite64|mmap|mmap64)|std::basic_[io]?f(stream|ilebuf)<.*|std::filesystem::.*'
sockets='(socket|connect|bind|accept|listen|send|sendto|sendmsg|recv|recvfrom|recvmsg|poll|epoll_.*|select|zmq_.*)'
threads='(pthread_create|pthread_mutex_.*|fork|vfork|execv.*|system|popen|dlopen)|std::thread::.*'
chance='(getrandom|getentropy|rand|srand|random)|std::random_device::.*'
environment='(getenv|secure_getenv|setenv)'
forbidden="^ *U (${clocks}|${files}|${sockets}|${threads}|${chance}|${environment})(@.*)?$"

shopt -s nullglob
archives=("$build"/libdray_*_core.a "$build"/libdray_base.a "$build"/libdray_wire.a
  "$build"/libdray_resources.a "$build"/libdray_deploy.a)
found=()
for archive in "${archives[@]}"; do [[ -f $archive ]] && found+=("$archive"); done
if ((${#found[@]} == 0)); then
  say "purity: skipped (no core library in $build)"
  exit 0
fi

status=0
for archive in "${found[@]}"; do
  if ! symbols="$(nm -u -C "$archive")"; then
    die "nm can not read $archive"
  fi
  if bad="$(grep -E "$forbidden" <<<"$symbols" | sort -u)"; then
    status=1
    while IFS= read -r symbol; do
      say "$(basename "$archive"): a core must not use ${symbol##* U }"
    done <<<"$bad"
  fi
done
((status == 0)) && say "purity: ok (${#found[@]} libraries)"
exit "$status"
