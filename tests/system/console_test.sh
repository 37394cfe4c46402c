#!/usr/bin/env bash
# The admin console against a real cluster: every command, JSON output, exit codes, bad input.
#
# usage: tests/system/console_test.sh        needs DRAY_BIN (folder of the programs)
#   DRAY_DIR   an empty working folder (default: a new one under /tmp, removed on success)
set -uo pipefail

BIN="$(cd "${DRAY_BIN:?DRAY_BIN: folder of the programs}" && pwd)"
ROOM="${DRAY_DIR:-$(mktemp -d /tmp/dray-console.XXXXXX)}"
OWN_ROOM="${DRAY_DIR:+no}"
export DRAY_BIN="$BIN" DRAY_DIR="$ROOM/c1"
OTHER="$ROOM/c2"
TWO="$ROOM/c3"
LONG="$ROOM/$(printf 'long%.0s' {1..30})"
unset NO_COLOR XDG_RUNTIME_DIR
failures=0
last=start

cleanup() {
  for dir in "$DRAY_DIR" "$OTHER" "$TWO" "$LONG"; do
    [[ -d $dir ]] && "$BIN/dray" down --force --dir "$dir" >/dev/null 2>&1
  done
  if [[ $failures == 0 && -z $OWN_ROOM ]]; then rm -rf "$ROOM"; fi
}
trap cleanup EXIT
trap 'exit 130' INT TERM

dray() { "$BIN/dray" "$@"; }

fail() {
  failures=$((failures + 1))
  printf 'FAILED: %s\n' "$*"
  printf '  exit code %s; stdout:\n%s\n  stderr:\n%s\n' "$code" "$(head -c 2000 "$ROOM/out")" \
    "$(head -c 2000 "$ROOM/err")"
}

# check CODE WORDS...: runs dray WORDS; the exit code must be CODE.
code=0
check() {
  local want="$1"
  shift
  last="dray $*"
  timeout 60 "$BIN/dray" "$@" >"$ROOM/out" 2>"$ROOM/err" </dev/null
  code=$?
  [[ $code == "$want" ]] || fail "$last: exit code $code, not $want"
}
# out/err PATTERN: the last command printed it (extended regular expression).
out() { grep -Eq -- "$1" "$ROOM/out" || fail "$last: stdout lacks '$1'"; }
err() { grep -Eq -- "$1" "$ROOM/err" || fail "$last: stderr lacks '$1'"; }
# json EXPRESSION: stdout is one JSON document `d` for which the Python expression holds.
json() {
  python3 -c 'import json, sys
d = json.load(open(sys.argv[1]))
assert eval(sys.argv[2]), "does not hold"' "$ROOM/out" "$1" 2>"$ROOM/json.err" ||
    fail "$last: not so: $1 ($(tail -n 1 "$ROOM/json.err"))"
}
# field EXPRESSION: prints a value of the last JSON document.
field() { python3 -c 'import json, sys
print(eval(sys.argv[2], {"d": json.load(open(sys.argv[1]))}))' "$ROOM/out" "$1"; }
step() { printf '%6.1f s  %s\n' "$(bc <<<"$(date +%s.%N) - $began")" "$1"; }
began="$(date +%s.%N)"
NOBODY=0190b0d3c5a07a3f8d2f6e0c4b1a9e77

step "without a cluster"
check 5 status && err 'no dray cluster answers at ipc://.*; start one: dray up'
check 5 submit echo hello && err 'dray up'
check 5 submit echo hello -o json && json 'd["error"]["exit_code"] == 5'
check 0 down && out 'no dray cluster runs'
check 0 version -o json && json '"version" in d and "protocol" in d'
check 0 --help && out 'Exit codes'
for command in up down submit wait result call deployments latency top bench status workers gpus queues \
  drain tasks task cancel retry dlq config version completion "bench queue" "bench call" \
  "bench overload" "bench mixed" "task explain" "dlq purge" "config show" "queues pause"; do
  # shellcheck disable=SC2086
  check 0 $command --help && out 'dray [a-z]'
done
check 0 completion bash && out 'complete .*dray' && bash -n "$ROOM/out"
# shellcheck disable=SC2016
words="$(bash -c 'source "$1"; COMP_WORDS=(dray task e); COMP_CWORD=2; _dray; echo "${COMPREPLY[@]}"' _ "$ROOM/out")"
[[ $words == explain ]] || fail "completion of 'dray task e' gives '$words'"
grep -q floor-peer "$ROOM/out" && fail "completion shows a hidden command"
check 5 call echo hello && err 'dray up'
check 5 deployments && err 'dray up'
check 5 top --once && err 'dray up'

step "bad lines"
check 2 && err 'see: dray --help'
check 2 sumbit
check 2 submit && err 'see: dray submit --help'
check 2 submit echo x --delay 5 && err 'no duration'
check 2 submit echo x --priority 11
check 2 status -o yaml
check 2 status --endpoint bogus
check 2 task show
check 2 wait 123 && err 'no task id'
check 2 up --set foo.bar=1 && err "unknown key 'foo.bar'"
check 2 up --set nonsense
check 2 up --workers 0
check 2 up --routers 0
check 2 up --fake-gpus 2x24GB && err 'unit of the size must be MiB or GiB'
check 2 submit echo x --gpus half && err "gpus: 'half' is not a number"
check 2 submit echo x --gpu-memory 8GB && err 'gpu_memory: .* needs a unit'
check 2 submit echo x --resource gpu=1 && err 'resources.gpu: has a field of its own'
check 2 submit echo x --resource cpu && err 'is no resource such as'
check 2 submit echo x --resource cpu=0 && err 'must be more than 0'
check 2 submit echo x --gpus 1 --strategy tight && err 'none of pack, spread, strict'
check 0 gpus --detect && out 'source ' && out 'tried: libnvidia-ml.so.1'
check 0 gpus --detect -o json && json 'd["source"] in ("none", "nvml", "cuda") and "notes" in d'
check 5 gpus && err 'dray up'
check 2 up --routers 2 --set router.endpoint=ipc:///tmp/x && err 'leave out --set'
check 2 call && err 'see: dray call --help'
check 2 call echo x --deadline 5 && err 'no duration'
check 2 call echo x --concurrency 0
check 2 bench overload --loads zero
check 2 bench mixed --backlog none
check 2 up --endpoint ipc:///tmp/x
printf 'time_s,ongoing\n0,4\n60,40\n120,4\n' > "$ROOM/load.csv"
check 0 autoscale --dry-run "$ROOM/load.csv" --plot "$ROOM/plan.svg" && out 'panic' && out 'replica seconds'
check 2 autoscale --dry-run "$ROOM/load.csv" --set nonsense=1 && err "unknown field 'nonsense'"
check 2 autoscale --dry-run /nonexistent && err 'cannot read'
printf '[deployment.app]\ncode = "a.so"\n\ngpus = -1\nwhat = 2\n' > "$ROOM/bad.toml"
check 2 deploy "$ROOM/bad.toml" && err 'bad.toml:5: deployment.app.what: unknown field' && err 'bad.toml:4: deployment.app.gpus'
check 2 scale app many && err 'no number and not auto'
check 2 up --dir "$ROOM/with space" && err 'space'
mkdir -p "$ROOM/empty"
DRAY_BIN="$ROOM/empty" check 2 up --detach && err 'no program'
check 2 submit echo @/nonexistent && err 'cannot read'
check 2 submit echo "@$ROOM" && err 'cannot read'

step "up"
check 0 up --detach --workers 2 --allow-test-handlers --fake-gpus 2x24GiB -o json
json 'd["already_up"] is False and {s["name"] for s in d["services"]} == {"broker", "aggregator", "balancer", "router", "worker-0", "worker-1"}'
printf '          ready in %s s\n' "$(field 'round(d["seconds"], 2)')"
json 'd["seconds"] < 10'
check 0 up --detach --workers 2 && out 'already up'
check 0 status && out 'worker-1 +ready'
check 0 status -o json && json 'd["broker"]["workers"] == 2 and d["router"]["broker"]'
endpoint="$(field 'd["endpoint"]')"
check 0 status --endpoint "$endpoint" && out 'broker +ready'
check 0 workers && out 'worker-0 +up'
check 0 workers -o wide && out 'LABELS'
check 0 workers -o json && json '[w["state"] for w in d] == ["up", "up"]'
check 0 gpus && out 'FAKE-worker-0-1 +fake +fake 24GiB +0 B / 24.0 GiB +0 / 1'
check 0 gpus -o wide && out 'MEMORY TAKEN'
check 0 gpus -o json && json 'len(d) == 4 and all(g["health"] == "ok" and g["enforcement"] == "none" for g in d)'
check 0 submit sleep 10 --gpus 0.5 --gpu-memory 8GiB --strategy spread --wait
check 6 submit sleep 10 --gpus 3 && err "'gpus' \(largest seen: 2\); see: dray gpus"
check 0 config show && out 'allow_test_handlers = true'
check 0 config show -o json && json 'd["worker.allow_test_handlers"]["value"] is True'
check 0 config check && out 'ok'
printf '[broker]\nlease_tll = "5s"\n' >"$ROOM/bad.toml"
check 2 config check "$ROOM/bad.toml" && err 'bad.toml:2'

step "submit, wait, result"
check 0 submit echo hello --wait && out '^hello$'
check 0 -o json submit echo hello --wait && json 'd[0]["result"] == "hello" and d[0]["state"] == "succeeded"'
check 0 submit echo status --wait && out '^status$'
printf 'a\xff\x00b' >"$ROOM/bytes"
check 0 submit echo "@$ROOM/bytes" --wait && out '^4 bytes: 61ff0062' && err '--raw'
check 0 submit echo "@$ROOM/bytes" --wait --raw
cmp -s "$ROOM/bytes" "$ROOM/out" || fail "raw bytes differ"
check 0 submit echo "@$ROOM/bytes" --wait -o json && json 'd[0]["result_base64"] == "Yf8AYg=="'
"$BIN/dray" submit echo - --wait --raw <"$ROOM/bytes" | cmp -s - "$ROOM/bytes" || fail "stdin payload"
check 0 submit echo one -o json && id="$(field 'd[0]["id"]')"
check 0 wait "$id" && out 'succeeded'
check 0 result "$id" && out '^one$'
check 0 result "$id" -o json && json 'd["result"] == "one"'
check 0 submit echo same --id "$NOBODY" && check 0 submit echo same --id "$NOBODY"
check 2 submit echo other --id "$NOBODY" && err 'conflict'
check 0 submit noop --count 5000 --wait && out '5 000 succeeded'
check 0 submit noop --count 300 --wait -o json && json 'd["succeeded"] == 300 and d["failures"] == []'
check 0 submit echo many --count 5 && mapfile -t ids <"$ROOM/out"
[[ ${#ids[@]} == 5 ]] || fail "5 ids expected"
check 0 wait "${ids[@]}" -o json && json 'len(d) == 5 and all(o["result"] == "many" for o in d)'
check 0 submit sleep 60000 && slow="$(cat "$ROOM/out")"
check 0 wait "$slow" "${ids[0]}" --n-ready 1 --timeout 5s && out 'many'
check 4 wait "$slow" --timeout 100ms && err 'dray task explain'
check 4 result "$slow" && err "dray wait $slow"
check 4 submit sleep 3000 --wait --timeout 300ms && err 'dray wait'
check 3 result 0190b0d3c5a07a3f8d2f6e0c4b1a9e78
check 3 wait 0190b0d3c5a07a3f8d2f6e0c4b1a9e78 --timeout 5s
check 3 submit no.such.handler x && err 'unknown_handler'
check 1 submit fail final:boom --wait && err 'boom'
check 1 submit fail 0:again --max-failures 2 --backoff 1ms --wait -o json && json 'd[0]["state"] == "dead"'
dead="$(field 'd[0]["id"]')"
check 1 submit sleep 5000 --time-limit 50ms --max-failures 1 --wait

# Calls and what looks at them. $1: more options of every command.
calls() {
  check 0 call echo hello "$@" && out '^hello$'
  check 0 call echo hello --trace "$@" && out '^hello$' && err 'total +[0-9]+ us' && err '^run .*\|'
  check 0 call echo hello -o json "$@"
  json 'd["end"] == "reply" and d["reply"] == "hello" and d["times"]["total_us"] > 0'
  check 0 call echo "@$ROOM/bytes" --raw "$@" && { cmp -s "$ROOM/bytes" "$ROOM/out" || fail "raw reply differs"; }
  check 0 call echo hello --count 2000 --concurrency 16 "$@" && out '2 000 replies'
  check 0 call echo hello --count 500 -o json "$@" && json 'd["replies"] == 500 and d["p99_us"] >= d["p50_us"] > 0'
  check 0 call stream.count 3:20 --stream -o json "$@" && json 'len(d["parts"]) == 3'
  # In its first seconds a router does not know yet what is not there.
  for _ in {1..50}; do [[ $("$BIN/dray" call no.such.handler x "$@" 2>&1) == *no_replica* ]] || break; sleep 0.1; done
  check 3 call no.such.handler x "$@" && err 'unknown_handler' && err 'dray deployments'
  check 1 call fail final:boom "$@" && err 'boom'
  check 4 call sleep 3000 --deadline 300ms "$@" && err 'idempotent|deadline'
  check 0 deployments "$@" && out '^echo +.*[0-9]'
  check 0 deployments echo "$@" && out 'worker-0 +0'
  check 0 deployments -o json "$@" && json 'any(x["name"] == "echo" and x["replicas"] >= 1 for x in d)'
  check 3 deployments nobody "$@" && err 'dray deployments'
  check 0 latency echo "$@" && out 'total +' && out '#'
  check 0 latency echo -o json "$@" && json 'sum(x["latency"]["total"]["n"] for x in d) >= 2500'
  check 0 top --once --interval 200ms "$@" && out 'CALLS OF|nobody called' && out 'worker-0 +up'
  check 0 top -o json --interval 200ms "$@" && json 'any(x["name"] == "echo" for x in d["deployments"])'
  check 0 bench call --requests 600 --pairs 3 -o json "$@"
  json 'd["calls"] >= 600 and d["floor"]["p50_us"] > 0 and d["ratio"]["p50"]["median"] > 0'
  check 0 bench call --requests 900 --pairs 3 --concurrency 16 --one-cpu "$@" && out 'floor +p50'
}
can_call=no
for _ in 1 2 3; do dray call echo probe --deadline 2s >/dev/null 2>&1 && can_call=yes && break; done
if [[ $can_call == yes ]]; then
  step "calls"
  calls
  check 0 bench overload --loads 0.4 --seconds 0.5 --plot "$ROOM/o.svg" -o json
  json 'd["loads"][0]["no_end"] == 0 and d["loads"][0]["offered"] > 100'
  python3 -c 'import sys, xml.dom.minidom as m; m.parse(sys.argv[1])' "$ROOM/o.svg" || fail "the plot is no XML"
  check 0 bench mixed --loads 0.3 --seconds 1 --warm 1 --plot "$ROOM/m.svg" -o json
  json 'd["queued_only_per_s"] > 0 and d["loads"][0]["tasks_per_s"] > 0 and d["loads"][0]["no_end"] == 0'
  python3 -c 'import sys, xml.dom.minidom as m; m.parse(sys.argv[1])' "$ROOM/m.svg" || fail "the plot is no XML"
fi

step "tasks, cancel, queues"
check 0 tasks -s running -n 10 && out "$slow"
check 0 tasks -o json && json "any(t['id'] == '$slow' for t in d)"
check 0 task show "$slow" && out 'worker: +worker-'
check 0 task explain "$slow" && out 'given to worker'
check 0 task show "$id" && out 'succeeded'
check 3 task show 0190b0d3c5a07a3f8d2f6e0c4b1a9e78
check 0 submit echo later --delay 1h && later="$(cat "$ROOM/out")"
check 0 task explain "$later" -o json && json '"not before" in d["why"][0]'
check 0 cancel "$slow" "$later" && out "$later +cancelled"
check 1 wait "$slow" "$later" --timeout 10s
check 3 cancel 0190b0d3c5a07a3f8d2f6e0c4b1a9e78
check 0 queues pause side && check 0 submit echo p -q side && paused="$(cat "$ROOM/out")"
check 0 queues && out 'side +1 .*paused'
check 0 task explain "$paused" && out 'is paused'
check 0 queues list -o json && json 'any(q["queue"] == "side" and q["paused"] for q in d)'
check 0 queues resume side && check 0 wait "$paused" --timeout 10s

step "dead letters"
check 0 dlq list && out "$dead"
check 0 dlq list -o json && json 'd["total"] >= 3' && total="$(field 'd["total"]')"
check 0 dlq show "$dead" && out 'again'
check 3 dlq show 0190b0d3c5a07a3f8d2f6e0c4b1a9e78
check 2 dlq replay
check 0 retry "$dead" -o json && json "d['replayed'][0]['old'] == '$dead'"
check 1 wait "$(field 'd["replayed"][0]["id"]')" --timeout 10s
check 3 retry "$NOBODY"
check 0 dlq replay --all -o json && json "len(d['replayed']) == $total"
check 2 dlq purge --all && err '--yes'
check 2 dlq purge --all --yes --expect 99999 && err 'nothing was purged'
check 0 dlq purge --all --yes && check 0 dlq list -o json

step "drain"
check 0 drain worker-1 --wait --timeout 20s && out 'drained'
sleep 0.3
check 0 status && out 'worker-1 +draining'
check 0 drain worker-1 --off
check 3 drain nobody && err 'dray workers'

step "back-pressure, side by side, long paths"
check 0 up --detach --dir "$OTHER" --set broker.tasks_max=1500 -o json
check 6 submit sleep 1000 --count 3000 --timeout 1s --dir "$OTHER" && err 'overloaded'
check 0 submit echo here --wait && out here
check 0 down --dir "$OTHER"
check 0 up --detach --dir "$LONG" && out 'reached through'
check 0 submit echo far --wait --dir "$LONG" && out far
check 0 down --dir "$LONG" -o json && json 'd["stopped"] == 6'

step "several routers"
for how in "" --tcp; do
  check 0 up --detach ${how:+"$how"} --routers 2 --workers 1 --dir "$TWO" -o json
  json '{"router", "router-1"} <= {s["name"] for s in d["services"]}'
  check 0 status --dir "$TWO" && out 'router-1 +ready'
  check 0 status -o json --dir "$TWO" && json 'set(d["routers"]) == {"router", "router-1"}'
  [[ $how == --tcp ]] && json 'd["endpoint"].count("tcp://127.0.0.1:") == 2'
  check 0 submit echo two --wait --dir "$TWO" && out two
  if [[ $can_call == yes ]]; then
    check 0 call echo two --dir "$TWO" && out '^two$'
    check 0 deployments --dir "$TWO" && out 'echo +router-1'
    check 0 bench call --requests 300 --pairs 3 --dir "$TWO" -o json && json "d['transport'] == ('tcp' if '$how' == '--tcp' else 'ipc')"
    check 0 status -o json --dir "$TWO"
    kill -9 "$(field "next(s['pid'] for s in d['services'] if s['name'] == 'router')")"
    # The router that was started again may not know the handler before its worker is back.
    for _ in {1..30}; do dray call echo again --idempotent --dir "$TWO" >/dev/null 2>&1 && break || sleep 0.1; done
    check 0 call echo again --idempotent --dir "$TWO" && out '^again$'
  fi
  check 0 down --dir "$TWO" -o json && json 'd["stopped"] >= 5'
done
check 0 up --detach --dir "$TWO" -o json && json '"router-1" not in {s["name"] for s in d["services"]}'
check 0 down --dir "$TWO"

step "a start that fails"
check 5 up --detach --dir "$OTHER" --set worker.plugins=/nonexistent.so
err 'worker-0: ' && err 'no such file' && err 'what was started is stopped'
check 0 down --dir "$OTHER" && out 'no dray cluster runs'

step "calls go first on busy CPUs"
check 0 status -o json
json '(os := __import__("os"), own := os.getpriority(0, 0), nice := {"broker", "aggregator"}) and all(
  os.getpriority(0, s["pid"]) == (max(own, 5) if s["name"] in nice else own) for s in d["services"])'
json '(os := __import__("os"), pid := next(s["pid"] for s in d["services"] if s["name"] == "worker-0"),
  own := os.getpriority(0, 0), at := f"/proc/{pid}/task/") and {"executor": max(own, 5), "call": own} == {
  name: os.getpriority(0, int(t)) for t in os.listdir(at)
  for name in [open(at + t + "/comm").read().strip()] if name in ("executor", "call")}'

step "kills"
for name in router aggregator broker; do
  for _ in {1..100}; do dray status -o json >"$ROOM/out" 2>"$ROOM/err" && break || sleep 0.1; done
  kill -9 "$(field "next(s['pid'] for s in d['services'] if s['name'] == '$name')")"
  check 0 submit echo "after $name" --wait --timeout 15s && out "after $name"
done
kill -9 "$(cat "$DRAY_DIR/run/supervisord.pid")"
sleep 0.2
check 1 up --detach && err 'dray down'
check 0 down && out 'stopped'
check 0 up --detach
check 0 result "$id" && out '^one$'

step "down"
check 0 down && out 'stopped 6 processes'
if pgrep -f "dray.* --dir $DRAY_DIR\$" >/dev/null; then fail "processes are left"; fi
check 5 status

step "in the foreground"
"$BIN/dray" up >"$ROOM/foreground" 2>&1 &
console=$!
for _ in {1..100}; do grep -q 'Its logs' "$ROOM/foreground" && break || sleep 0.1; done
check 0 submit echo front --wait && out front
kill -TERM "$console"
wait "$console" || fail "dray up in the foreground ends with $?"
grep -q '^stopped' "$ROOM/foreground" || fail "the foreground did not say stopped"

step "end"
if ((failures > 0)); then
  printf '%s checks failed; files are in %s\n' "$failures" "$ROOM"
  exit 1
fi
printf 'console: ok\n'
