"""How gunicorn serves the site; `make run` and deploy/ use it. https://docs.gunicorn.org/en/stable/settings.html"""

import os
import resource
import socket
from typing import Any

from machines.boot.redaction import RedactTokens
from rescuesite.serving import sides
from rescuesite.serving.handover import Handover
from rescuesite.serving.sides import Reload

bind = os.environ.get("RESCUESITE_BIND") or "127.0.0.1:8000"
wsgi_app = "rescuesite.wsgi:application"

# Threads, since a machine may fetch its initrd over a slow line for minutes; two processes, so that one can die. As
# many again serve staff.
worker_class = "rescuesite.serving.gunicorn_worker.SiteWorker"
workers = 2 * int(os.environ.get("RESCUESITE_PROCESSES", "2"))
threads = int(os.environ.get("RESCUESITE_THREADS", "64"))
graceful_timeout = 30
timeout = 60
keepalive = 5
# The contract is 4,094 bytes; a query beyond it is answered as well, as far as gunicorn goes.
limit_request_line = 8190

# Forwarded headers are read by the site, from the proxies that it trusts.
forwarded_allow_ips = ""
accesslog = None
errorlog = "-"
# A Unix socket is for our account and our group: whoever connects to it is believed what client it speaks for.
umask = 0o007
loglevel = "warning"
# Its socket has one name for each account: a second site on the host could not have one.
control_socket_disable = True
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: PTH112, S108 - gunicorn's own heartbeat files

# Each connection is an open file, and so is each file being sent.
_, _most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
_files = min(_most_files, 16384) if _most_files != resource.RLIM_INFINITY else 16384
worker_connections = min(4096, _files // 3)

#: A machine that is switched off in the middle of a download leaves its connection open; drop it after this time.
_DEAD_PEER_MS = 60_000


def on_starting(server: Any) -> None:
    """gunicorn logs with handlers of its own; what it says of a request must not hold a token either."""
    for handler in server.log.error_log.handlers:
        handler.addFilter(RedactTokens())
    resource.setrlimit(resource.RLIMIT_NOFILE, (_files, _most_files))
    # Here, so that what is queued for staff outlives each worker.
    server.handover = Handover()
    server.reload_progress = Reload()


def pre_fork(server: Any, worker: Any) -> None:
    sides.assign(worker, server.WORKERS.values())
    worker.handover, worker.reload = server.handover, server.reload_progress
    worker.reload.enrol(worker)


def post_worker_init(worker: Any) -> None:
    worker.reload.ready(worker)


def child_exit(server: Any, worker: Any) -> None:
    worker.reload.ended(worker)


def on_reload(server: Any) -> None:
    server.reload_progress.begin(server.WORKERS.values())


def when_ready(server: Any) -> None:
    """Accepted sockets inherit the listener's options."""
    for listener in server.LISTENERS:
        if listener.sock.family != socket.AF_UNIX:
            listener.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_PEER_MS)
            listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
