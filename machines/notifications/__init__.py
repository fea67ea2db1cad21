"""Telling others what happens: by webhook or e-mail, as rules say.

What happened is an audit entry (`events` says which ones count), or only time has passed (`clock`). For each rule that
is about it there is a row to be delivered, made in the same transaction (`machines.models.notification`); the worker
delivers them (`delivery`), as often as it takes, by `webhook` or mail.
"""
