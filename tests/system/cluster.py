"""A real cluster for one test: a folder, a supervisord of its own, its processes, and their end.

    with Cluster(workers=3, settings={"broker.lease_ttl": "1s"}, routers=2) as c:
        c.endpoint; c.pid("broker"); c.kill("broker"); c.state("broker"); c.rss("broker")

Binaries come from DRAY_BIN (default build/release/bin); they are linked into the folder first, so a
build that runs at the same time does not change what a restarted service is.
"""
import atexit
import ctypes
import http.client
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("DRAY_BIN", ROOT / "build/release/bin")).resolve()
LONG = os.environ.get("DRAY_LENGTH", "short") == "long"
PROGRAMS = ("dray-broker", "dray-router", "dray-aggregator", "dray-balancer", "dray-worker", "dray-executor")
SERVICES = ("broker", "router", "aggregator", "balancer")


class Unix(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path, timeout=5):
        super().__init__("localhost", timeout=timeout)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path):
        super().__init__()
        self.path = path

    def make_connection(self, host):
        return Unix(self.path, 30)


def die_with_parent():
    """In the child: SIGTERM when this test is killed, so that nothing is left behind."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def prepare_supervisor():
    """Also: a service that crashes leaves its core in the cluster's folder, which is then kept."""
    die_with_parent()
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)


def link_tree(programs, target):
    """Hard links where possible, else copies."""
    def take(source, where):
        where.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, where)
        except OSError:
            shutil.copy2(source, where)
    for name in programs:
        take(BIN / name, target / "bin" / name)
    for plugin in (BIN.parent / "lib/dray/plugins").glob("*.so"):
        take(plugin, target / "lib/dray/plugins" / plugin.name)


class Cluster:
    def __init__(self, workers=1, settings=None, env=None, base=None, routers=1):
        if base is None:
            base = os.environ.get("DRAY_DIR") or tempfile.gettempdir()
        self.dir = Path(tempfile.mkdtemp(prefix="c-", dir=base))
        self.workers = workers
        self.routers = ["router"] + [f"router-{i}" for i in range(1, routers)]
        self.settings = {"worker.allow_test_handlers": True, "log.format": "text",
                         **(settings or {})}
        self.env = env or {}
        self.supervisor = None
        self.keep = False
        if routers > 1:
            self.settings.setdefault("worker.routers", [
                f"ipc://run/{name}-workers.sock" for name in self.routers])
        self.endpoint = f"ipc://{self.dir}/run/router.sock"
        # Of all routers, for clients that call.
        self.endpoints = ",".join(f"ipc://{self.dir}/run/{name}.sock" for name in self.routers)

    # --- life -----------------------------------------------------------------------------------

    def __enter__(self):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        atexit.register(self.stop)
        try:
            self.prepare()
            self.start()
        except BaseException:
            self.keep = True
            self.stop()
            raise
        return self

    def __exit__(self, kind, value, trace):
        self.keep = self.keep or (kind is not None and kind is not SystemExit)
        self.stop()

    def prepare(self):
        for name in ("run", "log", "data"):
            (self.dir / name).mkdir(exist_ok=True)
        link_tree(PROGRAMS, self.dir)
        self.write_settings()
        for name in self.routers[1:]:
            (self.dir / f"run/{name}.conf").write_text(more_router(name))

    def write_settings(self):
        sections = {}
        for key, value in self.settings.items():
            section, name = key.split(".", 1)
            sections.setdefault(section, []).append(f"{name} = {json.dumps(value)}")
        text = "".join(f"[{s}]\n" + "\n".join(lines) + "\n" for s, lines in sections.items())
        (self.dir / "dray.toml").write_text(text)

    def start(self, timeout=40):
        env = {k: v for k, v in os.environ.items() if not k.startswith("DRAY_")}
        env.update(DRAY_DIR=str(self.dir), DRAY_BIN=str(self.dir / "bin"),
                   DRAY_WORKERS=str(self.workers), OPENBLAS_NUM_THREADS="1", **self.env)
        out = open(self.dir / "log/supervisord.out", "w")
        self.supervisor = subprocess.Popen(
            ["supervisord", "-n", "-c", str(ROOT / "deploy/supervisord.conf")], env=env,
            stdout=out, stderr=out, stdin=subprocess.DEVNULL, cwd=self.dir,
            preexec_fn=prepare_supervisor)
        self.wait_ready(timeout)

    def stop(self):
        """Kills everything; idempotent."""
        atexit.unregister(self.stop)
        if self.supervisor is not None:
            pids = []
            try:
                pids = [p["pid"] for p in self.processes() if p["pid"]]
            except (OSError, xmlrpc.client.Error):
                pass
            self.supervisor.kill()  # first, or it restarts what is killed
            self.supervisor.wait()
            self.supervisor = None
            for pid in pids + self.leftovers():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        if not self.keep:
            shutil.rmtree(self.dir, ignore_errors=True)

    def leftovers(self):
        """Processes whose program lies in this cluster's own folder."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and os.readlink(entry / "exe").startswith(str(self.dir)):
                    found.append(int(entry.name))
            except OSError:
                pass
        return found

    # --- supervisor -----------------------------------------------------------------------------

    @property
    def rpc(self):
        transport = UnixTransport(self.dir / "run/supervisor.sock")
        return xmlrpc.client.ServerProxy("http://localhost", transport).supervisor

    def processes(self):
        return self.rpc.getAllProcessInfo()

    def names(self):
        return list(SERVICES) + self.routers[1:] + [f"worker-{i}" for i in range(self.workers)]

    def pids(self):
        """Name to pid of the processes that run."""
        return {p["name"]: p["pid"] for p in self.processes() if p["pid"]}

    def pid(self, name, timeout=30, other_than=0):
        return wait_for(lambda: self.live_pid(name, other_than), timeout, f"a pid of {name}")

    def live_pid(self, name, other_than=0):
        pid = self.pids().get(name, 0)
        return pid if pid != other_than and is_alive(pid) else 0

    def kill(self, name, sig=signal.SIGKILL):
        """Signals the process; returns (pid, Unix microseconds just before)."""
        pid = self.pid(name)
        at = time.time_ns() // 1000
        os.kill(pid, sig)
        return pid, at

    def stop_service(self, name):
        """SIGTERM; returns when the process has left. It stays down until start_service()."""
        self.rpc.stopProcess(self.full_name(name))

    def start_service(self, name):
        self.rpc.startProcess(self.full_name(name))

    def full_name(self, name):
        return next(f"{p['group']}:{p['name']}" for p in self.processes() if p["name"] == name)

    def bad_exits(self):
        """Lines of supervisord about processes that ended by anything but SIGKILL or on request."""
        log = (self.dir / "log/supervisord.log").read_text(errors="replace")
        return [line for line in log.splitlines()
                if "exited: " in line and "SIGKILL" not in line and "; expected" not in line]

    # --- looking --------------------------------------------------------------------------------

    def get(self, name, path, timeout=5):
        """(status, body) of the admin page of a service; (0, "") when nobody answers."""
        try:
            connection = Unix(self.dir / f"run/{name}.http", timeout)
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException):
            return 0, ""

    def is_ready(self, name):
        return self.get(name, "/ready")[0] == 200

    def wait_ready(self, timeout=40, names=None):
        for name in names or self.names():
            wait_for(lambda: self.is_ready(name), timeout, f"{name} to be ready (see {self.dir})")

    def state(self, name):
        status, body = self.get(name, "/debug/state")
        return json.loads(body) if status == 200 else None

    def has_workers(self, router, count):
        """Whether so many workers of this router take calls."""
        state = self.state(router)
        return bool(state) and state["workers"] >= count

    def deployment(self, handler):
        """What the router knows of a handler that may be called."""
        listed = self.admin("router", "deployments")["deployments"]
        return next((d for d in listed if d["name"] == handler), None)

    def counters(self):
        """The broker's counters; they start at zero with each of its lives."""
        state = self.state("broker")
        return state["core"]["counters"] if state and "core" in state else (
            state["counters"] if state else {})

    def rss(self, name):
        """Resident megabytes now; 0 if it does not run."""
        return memory_of(self.pids().get(name, 0), "VmRSS")

    def log(self, name):
        path = self.dir / "log" / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    # --- clients --------------------------------------------------------------------------------

    def client(self, verb, *args, timeout=120):
        """Runs bin/system_client; returns its last line of output, parsed."""
        done = subprocess.run([BIN / "system_client", verb, "--endpoint", self.endpoint,
                               *map(str, args)], capture_output=True, text=True, timeout=timeout)
        lines = done.stdout.strip().splitlines()
        if done.returncode not in (0, 1) or not lines:
            raise RuntimeError(f"system_client {verb}: exit {done.returncode}: {done.stderr[-500:]}")
        return json.loads(lines[-1])

    def start_client(self, verb, *args):
        """The same in the background; result with finish()."""
        return self.start_tool("system_client", verb, self.endpoint, args)

    def start_raw(self, verb, *args, to="router"):
        """bin/raw_client in the background, against any service."""
        return self.start_tool("raw_client", verb, f"ipc://{self.dir}/run/{to}.sock", args)

    def start_calls(self, verb, *args):
        """bin/call_client in the background; it knows all routers."""
        return self.start_tool("call_client", verb, self.endpoints, args)

    def start_hostile(self, verb, *args, to="router"):
        """bin/raw_calls in the background; the verb "router" listens there."""
        return self.start_tool("raw_calls", verb, f"ipc://{self.dir}/run/{to}.sock", args)

    def start_tool(self, tool, verb, endpoint, args):
        return subprocess.Popen([BIN / tool, verb, "--endpoint", endpoint, *map(str, args)],
                                stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent)

    def admin(self, target, verb, **args):
        pairs = [f"{k}={v}" for k, v in args.items()]
        return self.client("admin", "--target", target, "--verb", verb, *pairs)


def more_router(name):
    """A supervisord program: the router of deploy/supervisord.conf with a name of its own."""
    text = (ROOT / "deploy/supervisord.conf").read_text()
    section = text[text.index("[program:router]"):]
    section = section[:section.index("\n\n")]
    sets = [f"router.name={name}", f"router.endpoint=ipc://run/{name}.sock",
            f"router.worker_endpoint=ipc://run/{name}-workers.sock"]
    lines = []
    for line in section.replace("[program:router]", f"[program:{name}]").splitlines():
        lines.append(line + "".join(f" --set {s}" for s in sets)
                     if line.startswith("command=") else line)
    return "\n".join(lines) + "\n"


def finish(process, timeout=120):
    """Waits for a start_client; returns its last line of output, parsed."""
    out, _ = process.communicate(timeout=timeout)
    if not out.strip():
        raise RuntimeError(f"a client ended with exit {process.returncode}, no output")
    return json.loads(out.strip().splitlines()[-1])


def memory_of(pid, field):
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0


def is_alive(pid):
    try:
        return bool(pid) and Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, timeout, what, step=0.02):
    """The first true value of condition(); RuntimeError after timeout seconds."""
    until = time.monotonic() + timeout
    while True:
        try:
            value = condition()
        except (OSError, xmlrpc.client.Error, http.client.HTTPException):
            value = None
        if value:
            return value
        if time.monotonic() > until:
            raise RuntimeError(f"waited {timeout} s for {what}")
        time.sleep(step)


class Report:
    """Collects checks of one test and ends it with one summary line and an exit code."""

    def __init__(self, name):
        self.name = name
        self.failed = []
        self.facts = {}

    def check(self, holds, what):
        print(f"{'ok  ' if holds else 'FAIL'} {what}", flush=True)
        if not holds:
            self.failed.append(what)
        return holds

    def fact(self, **facts):
        self.facts.update(facts)

    def end(self):
        facts = ", ".join(f"{k} {v}" for k, v in self.facts.items())
        print(f"{self.name}: {'FAILED' if self.failed else 'ok'}{': ' if facts else ''}{facts}")
        return 1 if self.failed else 0
