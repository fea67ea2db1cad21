"""Archives in cpio's newc format, which Linux unpacks as an initramfs.

Source of the format: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from collections.abc import Mapping
from pathlib import PurePosixPath

_DIRECTORY, _FILE = 0o040000, 0o100000


def archive(files: Mapping[str, tuple[int, bytes]], directories: Mapping[str, int]) -> bytes:
    """Return an archive of `files` (path -> permission bits, contents) below `/`, parent directories included.

    A parent that `directories` does not name gets mode 755. Owner is root and time is zero throughout, so the same
    input gives the same bytes. The length is a multiple of 512, as cpio itself pads.
    """
    modes = {str(parent): 0o755 for path in files for parent in PurePosixPath(path).parents if parent.name}
    modes.update(directories)
    entries = [_entry(n, path, _DIRECTORY | modes[path], b"") for n, path in enumerate(sorted(modes), 1)]
    entries += [
        _entry(n, path, _FILE | mode, content)
        for n, (path, (mode, content)) in enumerate(sorted(files.items()), len(entries) + 1)
    ]
    whole = b"".join(entries) + _entry(0, "TRAILER!!!", 0, b"")
    return whole + bytes(-len(whole) % 512)


def _entry(inode: int, path: str, mode: int, content: bytes) -> bytes:
    name = path.encode() + b"\0"
    links = 2 if mode & _DIRECTORY == _DIRECTORY else 1
    numbers = (inode, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % number for number in numbers) + name
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)
