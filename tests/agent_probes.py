"""What an agent.toml may look like that somebody else wrote: one edit of a good one each."""

from __future__ import annotations

GOOD = """\
[etcd]
namespace = "local"
addr = { host = "127.0.0.1", port = 2379 }

[agent]
backend = "docker"
id = "i-1"
var-base-path = "FOLDER/var"
ipc-base-path = "FOLDER/ipc"
image-commit-path = "FOLDER/commit"

[container]
scratch-type = "hostdir"
scratch-root = "FOLDER/scratches"

[logging]
drivers = ["console"]

[logging.console]
colored = false
format = "simple"

[resource]

[debug]

[debug.coredump]
path = "FOLDER/coredumps"
"""
_DEBUG = GOOD[GOOD.index("[debug]") :]
_LOGGING = GOOD[GOOD.index("[logging]") : GOOD.index("[resource]")]
_CONTAINER = GOOD[GOOD.index("[container]") : GOOD.index("[logging]")]
_ETCD = GOOD[: GOOD.index("[agent]")]
_AGENT = GOOD[GOOD.index("[agent]") : GOOD.index("[container]")]
_ADDR = 'addr = { host = "127.0.0.1", port = 2379 }'

_LEFT_OUT = {
    "etcd": _ETCD,
    "etcd.addr": _ADDR,
    "etcd.namespace": 'namespace = "local"',
    "agent": _AGENT,
    "agent.backend": 'backend = "docker"',
    "agent.id": 'id = "i-1"',
    "container": _CONTAINER,
    "container.scratch-type": 'scratch-type = "hostdir"',
    "logging": _LOGGING,
    "logging.drivers": 'drivers = ["console"]',
    "logging.console": '[logging.console]\ncolored = false\nformat = "simple"\n',
    "resource": "[resource]",
    "debug": _DEBUG,
}
_ADDRESSES = {
    "a pair as text": 'addr = "127.0.0.1:2379"',
    "a pair as a list": 'addr = ["127.0.0.1", 2379]',
    "without a port": 'addr = { host = "127.0.0.1" }',
    "a port as text": 'addr = { host = "127.0.0.1", port = "2379" }',
    "port 0": 'addr = { host = "127.0.0.1", port = 0 }',
    "port 99999": 'addr = { host = "127.0.0.1", port = 99999 }',
    "a name": 'addr = { host = "etcd01", port = 2379 }',
    "IPv6": 'addr = "[::1]:2379"',
    "endpoints": 'addr = [{ host = "127.0.0.1", port = 2379 }, { host = "127.0.0.2", port = 1 }]',
    "endpoints as text": 'addr = ["127.0.0.1:2379", "127.0.0.2:2379"]',
    "one endpoint": 'addr = [{ host = "127.0.0.1", port = 2379 }]',
    "three endpoints": 'addr = ["127.0.0.1:2379", "127.0.0.2:2379", "127.0.0.3:2379"]',
    "no endpoint": "addr = []",
    "an empty table": "addr = {}",
    "a number": "addr = 2379",
}
_IN_AGENT = (
    'scaling-group = "gpu"',
    'initial-resource-group-name = "gpu"',
    'scaling-group-type = "storage"',
    'scaling-group-type = "strange"',
    'rpc-listen-addr = "127.0.0.1:6001"',
    'rpc-listen-addr = ["127.0.0.1", 6001]',
    'rpc-listen-addr = { host = "127.0.0.1" }',
    'rpc-listen-addr = { host = "127.0.0.1", port = "6001" }',
    'rpc-listen-addr = { host = "0.0.0.0", port = 6001 }',
    'rpc-listen-addr = { host = "::", port = 6001 }',
    'rpc-listen-addr = { host = "169.254.0.1", port = 6001 }',
    'rpc-listen-addr = { host = "fe80::1", port = 6001 }',
    'rpc-listen-addr = { host = "node01", port = 6001 }',
    'rpc-listen-addr = { host = "", port = 6001 }',
    'rpc-listen-addr = { host = "0.0.0.0", port = 6001 }\n'
    'advertised-rpc-addr = { host = "127.0.0.1", port = 6001 }',
    "rpc-listen-addr = {}",
    'advertised-rpc-addr = "127.0.0.1:6001"',
    'advertised-rpc-addr = "127.0.0.1"',
    "service-addr = {}",
    'service-addr = "127.0.0.1:6003"',
    'internal-addr = { host = "127.0.0.1" }',
    'announce-addr = { host = "127.0.0.1", port = 6003 }',
    "announce-internal-addr = 6003",
    'event-loop = "uvloop"',
    'event-loop = "trio"',
    "pid-file = 5",
    "agent-sock-port = 80",
    'agent-sock-port = "6007"',
    'agent-sock-port = "text"',
    'metadata-server-port = "x"',
    "kernel-creation-concurrency = 33",
    'allow-compute-plugins = ["a"]',
    "allow-compute-plugins = 5",
    "force-terminate-abusing-containers = 2",
    'cohabiting-storage-proxy = "no"',
    'ssl-cert = "/nowhere"',
    'rpc-auth-agent-keypair = "/nowhere"',
    'mount-path = "/etc/hostname"',
    'mount-path = "FOLDER/new"',
    'unknown = "kept"',
    'mode = "docker"',
)
_AS_BACKEND = ('"Docker"', '"dcker"', '"kubernetes"', '"dummy"', "5", '["docker"]', '""')
_IN_CONTAINER = (
    'port-range = "30000-31000"',
    "port-range = [30000, 31000]",
    "port-range = [31000, 30000]",
    "port-range = [30000]",
    'port-range = ["30000", "31000"]',
    "port-range = [0, 70000]",
    'stats-type = "cgroup"',
    'stats-type = "strange"',
    'sandbox-type = "strange"',
    'kernel-uid = "nobody"',
    'kernel-uid = "no-such-user"',
    "kernel-uid = -5",
    "bind-host = 5",
    'bind-host = ""',
    'advertised-host = ""',
    'jail-args = "x"',
    'scratch-size = "big"',
    'scratch-size = "1G"',
    "swarm-enabled = true",
    'swarm-enabled = "perhaps"',
)
_AS_SCRATCH = ('"hostdri"', '"memory"', '"hostfile"', '"k8s-nfs"', "1")
_IN_RESOURCE = (
    'allocation-order = "cuda"',
    'reserved-cpu = "1"',
    "reserved-cpu = 1.5",
    "reserved-mem = 5",
    'reserved-mem = "1Gi"',
    'reserved-mem = "much"',
    'affinity-policy = "PREFER_SINGLE_NODE"',
    'affinity-policy = "strange"',
)
_IN_DEBUG = ('enabled = "strange"', 'heartbeat-interval = "x"', "heartbeat-interval = 5")
_REPLACED = {
    "etcd is a list": (_ETCD, f"[[etcd]]\nnamespace = 'local'\n{_ADDR}\n"),
    "etcd.user is a number": ("[etcd]", "[etcd]\nuser = 5"),
    "etcd.password is a table": ("[etcd]", "[etcd]\npassword = {}"),
    "namespace is a number": ('namespace = "local"', "namespace = 5"),
    "namespace is empty": ('namespace = "local"', 'namespace = ""'),
    "drivers is text": ('["console"]', '"console"'),
    "drivers is unknown": ('["console"]', '["strange"]'),
    "drivers without its table": ('["console"]', '["console", "file"]'),
    "console.format is unknown": ('"simple"', '"strange"'),
    "console is text": ('[logging.console]\ncolored = false\nformat = "simple"\n', ""),
    "logging.level is unknown": ("[logging]", "[logging]\nlevel = 'strange'"),
    "id is a number": ('id = "i-1"', "id = 5"),
    "id is empty": ('id = "i-1"', 'id = ""'),
    "a table nobody knows": ("[debug]\n", "[strange]\na = 1\n[debug]\n"),
    "a service discovery nobody knows": ("[debug]\n", "[service-discovery]\ntype = 'x'\n[debug]\n"),
    "coredumps": ("[debug.coredump]", "[debug.coredump]\nenabled = true"),
    "two agents": ("[debug]\n", "[[agents]]\n[agents.agent]\nid = 'i-2'\n[debug]\n"),
    "resource is a list": ("[resource]", "[[resource]]"),
    "container is text": (_CONTAINER, ""),
}


def _replaced(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def _below(header: str, line: str) -> str:
    return _replaced(f"{header}\n", f"{header}\n{line}\n")


PROBES: dict[str, str] = {
    "good": GOOD,
    **{f"no {name}": _replaced(text, "") for name, text in _LEFT_OUT.items()},
    **{f"etcd.addr: {name}": _replaced(_ADDR, text) for name, text in _ADDRESSES.items()},
    **{f"[agent] {line}": _below("[agent]", line) for line in _IN_AGENT},
    **{f"backend = {v}": _replaced('backend = "docker"', f"backend = {v}") for v in _AS_BACKEND},
    **{f"[container] {line}": _below("[container]", line) for line in _IN_CONTAINER},
    **{f"scratch-type = {value}": _replaced('"hostdir"', value) for value in _AS_SCRATCH},
    **{f"[resource] {line}": _below("[resource]", line) for line in _IN_RESOURCE},
    **{f"[debug] {line}": _below("[debug]", line) for line in _IN_DEBUG},
    **{name: _replaced(old, new) for name, (old, new) in _REPLACED.items()},
    "mode instead of backend": _replaced("backend =", "mode ="),
    "container is text": "container = 'x'\n" + _replaced(_CONTAINER, ""),
    "empty": "",
}


def probes(folder: str) -> dict[str, str]:
    """By name, with all that the agent would create below `folder`."""
    return {name: text.replace("FOLDER", folder) for name, text in PROBES.items()}
