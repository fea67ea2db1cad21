"""The signals of the app."""

from django.dispatch import Signal

#: Sent after an audit entry was stored, with `entry` and `rescue` (or None), in the same transaction. Receivers must
#: not raise exceptions, because a machine may be waiting for its answer.
audit_recorded = Signal()
