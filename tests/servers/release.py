"""What it takes to run a RabbitMQ node beside others: its programs, its ports, its folder, its environment."""

import os
import secrets
import shutil
from pathlib import Path
from typing import NamedTuple

LOOPBACK = "-kernel inet_dist_use_interface {127,0,0,1}"
"""For Erlang: the connections among nodes, and those of rabbitmqctl, stay on this machine."""

COOKIE = ".erlang.cookie"
"""The file, in a node's folder, of the secret that it shares with rabbitmqctl and with its cluster."""

ENTER = """
root=$1 folder=$2; shift 2
mkdir -p "$root$folder"
mount --bind /proc "$root/proc"
mount --bind "$folder" "$root$folder"
exec chroot "$root" "$@"
"""
"""Run a command in a root folder, where the node's own folder has the same path. It wants a mount namespace of its own:
the mounts go with the process, and nobody who deletes the root folder finds anything of the machine's in it."""


class Release(NamedTuple):
    """Where the programs of one version are: on this machine, or in a root folder, which only root can enter."""

    programs: Path
    root: Path | None = None

    def command(self, folder, program, *arguments):
        """How to run one of its programs for the node that has this folder."""
        return self._entering(folder, str(self.programs / program), *arguments)

    def epmd(self, folder, *arguments):
        """How to run Erlang's port mapper, by which nodes and rabbitmqctl find each other."""
        return self._entering(folder, "epmd", *arguments)

    def _entering(self, folder, *command):
        if self.root is None:
            return list(command)
        return ["unshare", "--mount", "sh", "-ec", ENTER, "enter", str(self.root), str(folder), *command]


def installed(root=None):
    """The release that Debian's package has put on this machine, or into that root folder; else the one in this
    machine's PATH; else None."""
    top = root or Path("/")
    # Debian's programs in PATH are wrappers that insist on the package's own user, and so on its folders.
    for server in sorted(top.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server")):
        return Release(Path("/") / server.parent.relative_to(top), root)
    found = None if root else shutil.which("rabbitmq-server")
    return Release(Path(found).parent) if found else None


class Ports(NamedTuple):
    """The ports of a node, all on 127.0.0.1. Nodes that are to find each other share the port mapper's."""

    amqp: int
    distribution: int
    epmd: int

    @property
    def url(self):
        return f"amqp://guest:guest@127.0.0.1:{self.amqp}/"


def prepare(folder, config="", cookie=None):
    """Make the folder of a node, with its settings and its secret: the one given, or a new one the first time."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rabbitmq.conf").write_text(config)
    (folder / "enabled_plugins").write_text("[].\n")
    secret = folder / COOKIE
    if not secret.exists():
        secret.write_text(cookie or secrets.token_hex(16))
        secret.chmod(0o400)


def environment(folder, name, ports):
    """What makes a node one of its own: nothing of the machine's other RabbitMQ, and all its files in one folder."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
    return inherited | {
        "HOME": str(folder),
        "RABBITMQ_NODENAME": name,
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(ports.amqp),
        "RABBITMQ_DIST_PORT": str(ports.distribution),
        "ERL_EPMD_PORT": str(ports.epmd),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_CRASH_DUMP": str(folder / "erl_crash.dump"),
        # Together: no shell waits beside the server, so that the process which was started is the server itself.
        "RABBITMQ_ALLOW_INPUT": "1",
        "RABBITMQ_SERVER_START_ARGS": "-noinput",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": LOOPBACK,
        "RABBITMQ_CTL_ERL_ARGS": LOOPBACK,
        "RABBITMQ_CONF_ENV_FILE": str(folder / "rabbitmq-env.conf"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_LOGS": "-",
    }
