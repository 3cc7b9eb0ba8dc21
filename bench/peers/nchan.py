"""nginx with Debian's nchan module: one worker, messages in memory, EventSource subscribers."""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from lib import proc
from lib.subject import Event, Server, post

MODULES = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules")
CONFIG = """
{user}
load_module {module};
daemon off;
worker_processes 1;
worker_rlimit_nofile {files};
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections {files}; }}
http {{
    access_log off;
    tcp_nodelay on;
    keepalive_timeout 3600;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    nchan_shared_memory_size 1024M;
    nchan_message_buffer_length 100;
    nchan_message_timeout 10s;
    server {{
        listen {host}:{port} backlog=4096;
        location ~ ^/publish/(\\w+)$ {{
            nchan_publisher http;
            nchan_channel_id $1;
        }}
        location ~ ^/stream/(\\w+)$ {{
            nchan_subscriber eventsource;
            nchan_channel_id $1;
            nchan_subscriber_first_message newest;
            nchan_eventsource_ping_interval 15;
        }}
    }}
}}
"""


def _module() -> Path:
    for folder in MODULES:
        path = Path(folder) / "ngx_nchan_module.so"
        if path.exists():
            return path
    raise proc.MissingError("nginx's module nchan is not installed (see bench/README.md)")


def _configuration(folder: Path, port: int) -> Path:
    path = folder / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""  # the folder is ours alone
    values = {"user": user, "module": _module(), "folder": folder, "host": proc.HOST, "port": port}
    path.write_text(CONFIG.format(**values, files=proc.allow_open_files()))
    return path


@contextlib.contextmanager
def _serve(folder: Path, channel: str) -> Iterator[Server]:
    """`channel` names the i-th stream's channel, by format()."""
    nginx = proc.need_program("nginx")
    port = proc.free_port()
    config = _configuration(folder, port)

    def publish(events: Sequence[Event]) -> bytes:
        return b"".join(post(f"/publish/{channel.format(i)}", body) for i, body in events)

    with proc.running([nginx, "-p", str(folder), "-c", str(config)], log=folder / "nginx.log") as process:
        proc.wait_for_port(port, process)
        time.sleep(0.3)  # the worker sets up its shared memory
        yield Server(process, port, lambda i: f"/stream/{channel.format(i)}", publish)


def broadcast(folder: Path) -> contextlib.AbstractContextManager[Server]:
    return _serve(folder, "all")


def unicast(folder: Path) -> contextlib.AbstractContextManager[Server]:
    return _serve(folder, "c{}")
