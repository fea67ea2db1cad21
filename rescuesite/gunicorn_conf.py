"""gunicorn's configuration for `make run` and deploy/. https://docs.gunicorn.org/en/stable/settings.html"""

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

# Threads, because a machine on a slow line may fetch its initrd for minutes. Two processes, so that one can fail. The
# same number of processes serves staff.
worker_class = "rescuesite.serving.gunicorn_worker.SiteWorker"
workers = 2 * int(os.environ.get("RESCUESITE_PROCESSES", "2"))
threads = int(os.environ.get("RESCUESITE_THREADS", "64"))
graceful_timeout = 30
timeout = 60
keepalive = 5
# The contract is 4,094 bytes. This is gunicorn's maximum.
limit_request_line = 8190

# The site itself reads forwarded headers from trusted proxies.
forwarded_allow_ips = ""
accesslog = None
errorlog = "-"
# Only the site's account and group may connect to a Unix socket, because the site trusts their forwarded headers.
umask = 0o007
loglevel = "warning"
# The control socket has one name per account, so a second site on the host could not create its own.
control_socket_disable = True
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: PTH112, S108 - gunicorn's own heartbeat files

# Each connection and each file that is being sent needs an open file.
_, _most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
_files = min(_most_files, 16384) if _most_files != resource.RLIM_INFINITY else 16384
worker_connections = min(4096, _files // 3)

#: Connections of machines that were switched off during a download are closed after this time.
_DEAD_PEER_MS = 60_000


def on_starting(server: Any) -> None:
    """Remove tokens from gunicorn's log lines too. gunicorn has its own log handlers."""
    for handler in server.log.error_log.handlers:
        handler.addFilter(RedactTokens())
    resource.setrlimit(resource.RLIMIT_NOFILE, (_files, _most_files))
    # In the master process, so that queued requests of staff survive the end of a worker.
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
    """Set socket options on the listeners. Accepted sockets inherit them."""
    for listener in server.LISTENERS:
        if listener.sock.family != socket.AF_UNIX:
            listener.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_PEER_MS)
            listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
