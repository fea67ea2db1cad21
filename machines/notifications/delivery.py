"""Send the messages that are due. Messages of one rule are sent in order, different rules in parallel."""

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

#: The number of receivers in parallel, so that a slow receiver does not delay the others.
_AT_ONCE = 4
#: The limits for one receiver in one turn: a number of messages, and seconds.
_BATCH, _TURN = 50, 10.0


def deliver_due(now: datetime | None = None, *, at_once: int = _AT_ONCE) -> int:
    """Try to send messages that are due. Return the number of messages that arrived.

    One call may leave messages for the next call.
    """
    due = Delivery.objects.due(now or timezone.now())
    rules = due.order_by().values_list("rule", flat=True).distinct()
    groups = [list(due.filter(rule=rule)[:_BATCH]) for rule in rules]
    # Receivers that failed before come last, so that they do not delay the others.
    groups.sort(key=lambda messages: any(message.tries for message in messages))
    if at_once == 1 or len(groups) <= 1:
        return sum(map(_deliver_in_order, groups))
    with ThreadPoolExecutor(at_once, thread_name_prefix="delivers") as pool:
        return sum(pool.map(_in_thread, groups))


def _in_thread(messages: list[Delivery]) -> int:
    try:
        return _deliver_in_order(messages)
    except Error:
        logger.exception("Cannot send notifications.")
        return 0
    finally:
        connection.close()


def _deliver_in_order(messages: list[Delivery]) -> int:
    """Send messages until one fails or the turn is over."""
    arrived, until = 0, time.monotonic() + _TURN
    for message in messages:
        if time.monotonic() > until:
            break
        if not message.claim(timezone.now()):
            continue
        # Read the rule again: since the message was queued, the owner may have lost the permission.
        message.rule = NotificationRule.objects.select_related("owner").filter(pk=message.rule_id or 0).first()
        if message.rule and (reason := message.rule.reason_not_to_send(message.event, message.action)):
            message.give_up(timezone.now(), reason)
            continue
        try:
            status = _send(message)
        except DeliveryError as error:
            logger.warning("Cannot send %s (try %s): %s", message, message.tries, error)
            message.failed(timezone.now(), str(error), error.status)
            break
        message.arrived(timezone.now(), status)
        logger.info("Sent %s.", message)
        arrived += 1
    return arrived


def _send(message: Delivery) -> int | None:
    """Send a message and return the receiver's status, if the channel has one. Turns all errors into DeliveryError."""
    rule = message.rule
    if rule is None:
        raise DeliveryError("The rule was deleted.")
    try:
        return rule.channel.send(rule, message.payload_for(rule.owner), message.message_id)
    except DeliveryError:
        raise
    except Exception as error:
        # An unexpected error must not stop the other messages.
        logger.debug("Cannot send %s.", message, exc_info=True)
        raise DeliveryError(f"{type(error).__name__}: {error}") from error
