"""What the site's own rescue system is made of, and how it is built: Debian, running from memory.

The initrd holds a small first program and the root file system as one compressed file, which is read where it lies:
only what is used is unpacked, so it starts sooner and needs less memory than a root unpacked as a whole.
"""
