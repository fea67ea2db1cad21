"""Export boot scripts as files for a plain web, FTP or TFTP server.

`scripts` makes the contents. `folder` writes them and changes only its own files.
"""
