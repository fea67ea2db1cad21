"""What others may listen to. Who sends does not know who listens."""

from django.dispatch import Signal

#: An audit entry was stored: `entry`, and the `rescue` that it is about or None. Sent in its transaction, so that
#: what a listener stores is stored with it, or not at all. A listener raises nothing: a machine waits for its answer.
audit_recorded = Signal()
