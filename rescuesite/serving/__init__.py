"""How the site is served: processes for boot requests, which take all connections, and processes for staff's.

A boot process waits in its event loop for a request to be complete; only then does a thread take it. What is staff's it
hands over, connection and all, to a staff process: Python runs one thread of a process at a time, so whatever staff's
requests do, however long, no boot answer waits for it.
"""
