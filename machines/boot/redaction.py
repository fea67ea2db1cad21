"""What the logs leave out: rescues' tokens, and lines that strangers could fill a disk with. Pure.

gunicorn reads this module before Django is set up.
"""

import logging
import re

_PATH = re.compile(r"/boot/[A-Za-z0-9_-]{16,}")


class RedactTokens(logging.Filter):
    """Replaces the token in every path under /boot/ of a log record's message."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if "/boot/" in message:
            record.msg, record.args = _PATH.sub("/boot/<token>", message), None
        return True


class QuietStrangers(logging.Filter):
    """One line at most for a request that was refused, and none for a wrong path under /boot/."""

    def filter(self, record: logging.LogRecord) -> bool:
        status = getattr(record, "status_code", 400 if record.name.startswith("django.security") else 0)
        if 400 <= status < 500:
            record.exc_info = None
            return not (status == 404 and "/boot/" in record.getMessage())
        # Whoever probes knows by the answer.
        return not (status == 503 and "/readyz" in record.getMessage())
