"""The peer of the boot address: a hand-edited rescue.php behind nginx, as people run it today."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.site import free_port

_PHP = """<?php
header("Content-Type: text/plain");
echo "#!ipxe\\n";
switch ($_GET["mac"]) {
case "52:54:00:12:34:56":
    if ($_GET["ip"] != $_SERVER["REMOTE_ADDR"]) { echo "echo IP Failed Match\\nexit\\n"; break; }
    echo "kernel http://192.0.2.10/vmlinuz\\ninitrd http://192.0.2.10/initrd\\nboot\\n";
    break;
default:
    echo "echo No rescue mode requested, exiting\\nexit\\n";
}
"""


@contextlib.contextmanager
def rescue_php(folder: Path) -> Iterator[str]:
    """Serve rescue.php by nginx and php-fpm; yields the address of the server."""
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    (folder / "rescue.php").write_text(_PHP)
    (folder / "static.ipxe").write_text("#!ipxe\necho No rescue mode requested, exiting\nexit\n")
    port, socket = free_port(), folder / "php.sock"
    (folder / "fpm.conf").write_text(
        f"[global]\nerror_log = {folder}/fpm.log\ndaemonize = no\n[www]\nlisten = {socket}\nlisten.mode = 0666\n"
        "user = www-data\ngroup = www-data\npm = static\npm.max_children = 2\n"
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; worker_processes 2; pid {folder}/nginx.pid; error_log {folder}/nginx.log;\n"
        "events {}\nhttp { access_log off;\n"
        f"server {{ listen 127.0.0.1:{port}; root {folder};\n"
        f"location = /rescue.php {{ include /etc/nginx/fastcgi_params; fastcgi_pass unix:{socket};\n"
        f"fastcgi_param SCRIPT_FILENAME {folder}/rescue.php; }} }} }}\n"
    )
    fpm = sorted(Path("/usr/sbin").glob("php-fpm*"))[-1]
    with contextlib.ExitStack() as stack:
        for command in ([str(fpm), "-y", str(folder / "fpm.conf")], ["nginx", "-c", str(folder / "nginx.conf")]):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        yield f"http://127.0.0.1:{port}"
