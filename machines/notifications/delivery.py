"""What the worker does with messages that are due: one receiver after the other, side by side with other receivers."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from django.db import Error, connection
from django.utils import timezone

from machines.models.delivery import Delivery
from machines.models.notification import NotificationRule
from machines.notifications.channels.base import DeliveryError

logger = logging.getLogger(__name__)

#: So many receivers at once: one that is slow keeps no other waiting.
_AT_ONCE = 4
#: So many messages to one receiver, and seconds for them, before the others have their turn again.
_BATCH, _TURN = 50, 10.0


def deliver_due(now: datetime | None = None, *, at_once: int = _AT_ONCE) -> int:
    """Try messages that are due, those of a rule in their order; return how many arrived.

    Not all, where there are many: it is meant to be called again and again.
    """
    due = Delivery.objects.due(now or timezone.now())
    rules = due.order_by().values_list("rule", flat=True).distinct()
    groups = [list(due.filter(rule=rule)[:_BATCH]) for rule in rules]
    # Receivers that failed come last: what they cost is paid by nobody else.
    groups.sort(key=lambda messages: any(message.tries for message in messages))
    if at_once == 1 or len(groups) <= 1:
        return sum(map(_deliver_in_order, groups))
    with ThreadPoolExecutor(at_once, thread_name_prefix="delivers") as pool:
        return sum(pool.map(_in_thread, groups))


def _in_thread(messages: list[Delivery]) -> int:
    try:
        return _deliver_in_order(messages)
    except Error:
        logger.exception("messages cannot be delivered now")
        return 0
    finally:
        connection.close()


def _deliver_in_order(messages: list[Delivery]) -> int:
    """Try them until one fails, and the receiver gets a breather, or its turn is over."""
    arrived, until = 0, time.monotonic() + _TURN
    for message in messages:
        if time.monotonic() > until:
            break
        if not message.claim(timezone.now()):
            continue
        # As it is now: when it was queued, or this turn began, its owner might still see it.
        message.rule = NotificationRule.objects.select_related("owner").filter(pk=message.rule_id or 0).first()
        if message.rule and (why := message.rule.reason_not_to_send(message.event, message.action)):
            message.give_up(timezone.now(), why)
            continue
        try:
            status = _send(message)
        except DeliveryError as error:
            logger.warning("%s did not arrive, try %s: %s", message, message.tries, error)
            message.failed(timezone.now(), str(error), error.status)
            break
        message.arrived(timezone.now(), status)
        logger.info("%s arrived", message)
        arrived += 1
    return arrived


def _send(message: Delivery) -> int | None:
    """Returns the receiver's answer, where its way has one. Raises DeliveryError, whatever goes wrong."""
    rule = message.rule
    if rule is None:
        raise DeliveryError("The rule was deleted.")
    try:
        return rule.channel.send(rule, message.payload_for(rule.owner), message.message_id)
    except DeliveryError:
        raise
    except Exception as error:
        # Whatever it is: this message waits, and the others go on.
        logger.debug("a message could not be sent", exc_info=True)
        raise DeliveryError(f"{type(error).__name__}: {error}") from error
