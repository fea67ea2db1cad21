"""Telling others what happens, by the `channels` that rules say.

Either an audit entry was made (`events` says which ones count), or time has passed (`timed_events`). Each rule that is
about it gets a row to be delivered, made in the same transaction (`machines.models.notification`); the worker delivers
them (`delivery`), as often as it takes.
"""
