"""Boot scripts as files, for machines that a plain web, FTP or TFTP server answers.

`scripts` says what each file holds; `folder` puts it there, and touches nothing that is not its own.
"""
