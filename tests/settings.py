"""The site's settings, with what tests need: a data directory of their own, and cheap passwords."""

import atexit
import os
import shutil
import tempfile

_own = tempfile.mkdtemp(prefix="rescuesite-test-")
atexit.register(shutil.rmtree, _own, ignore_errors=True)
os.environ["RESCUESITE_DATA_DIR"] = _own

from rescuesite.settings import *  # noqa: E402, F403

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
# Inline, in the test's own transaction; the deadline itself is tested with the real thing.
RESCUESITE_BOOT_DEADLINE = None
