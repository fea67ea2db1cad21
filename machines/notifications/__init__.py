"""Notifications about events, by the `channels` that the rules name.

An event is an audit entry (see `events`) or is caused by time alone (see `timed_events`). The site stores a message for
each matching rule, in the same transaction as the audit entry (`machines.models.delivery`). The worker sends the
messages and repeats failed tries (`delivery`).
"""
