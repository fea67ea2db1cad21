"""Build the site's own rescue system: Debian, running from memory.

The initrd contains a small init program and the root file system as one compressed file. The kernel mounts this file
and unpacks only the parts in use. So the system starts faster and needs less memory than with an unpacked root.
"""
