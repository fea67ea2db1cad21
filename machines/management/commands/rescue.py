"""manage.py rescue enable|disable|try-again|status: enable and disable rescue."""

import time
from collections.abc import Callable
from typing import Any

from django.core.management.base import CommandError

from machines.boot.reasons import Reason, reason_text
from machines.management.terminal import (
    NotSucceededError,
    TerminalCommand,
    actor_named,
    add_action,
    add_by_option,
    add_json_option,
    image_named,
    machine_named,
    moment,
    table,
)
from machines.models import Rescue
from machines.models.rescue_terms import NoActiveRescueError, RescueError, RescueRequest
from machines.representation import rescue_json
from machines.wording import STATES

#: Seconds between two checks of the state.
_POLL = 0.5


class Command(TerminalCommand):
    help = "Enable and disable rescue, and show its state."

    def add_actions(self, actions: Any) -> None:
        enable = add_action(actions, "enable", self.enable, "boot the rescue system from the next power-on")
        enable.add_argument(
            "--lifetime", choices=Rescue.Lifetime.values, help="default: until with --until, otherwise one-boot"
        )
        enable.add_argument("--until", metavar="TIME", help="latest end of the rescue, such as 2026-12-24T18:00")
        enable.add_argument("--image", help="default: the machine's image, or the default image")
        enable.add_argument("--password", action="store_true", help="make a password too and print it once")
        disable = add_action(actions, "disable", self.disable, "boot the disk from the next power-on")
        again = add_action(actions, "try-again", self.try_again, "reset the tries of a rescue that has failed")
        status = add_action(actions, "status", self.status, "show the latest rescue")
        status.add_argument(
            "--wait", action="store_true", help="wait until the rescue system is up, or the rescue has ended"
        )
        status.add_argument(
            "--timeout", type=float, default=1800, metavar="SECONDS", help="limit for --wait (default: %(default)s)"
        )
        for parser in (enable, disable):
            parser.add_argument("--reason", default="", help="reason for the audit log")
        add_by_option(enable, "record this user as the actor in the audit log, and deliver their SSH keys")
        for parser in (disable, again):
            add_by_option(parser)
        for parser in (enable, disable, again, status):
            parser.add_argument("name", metavar="MACHINE")
            add_json_option(parser)

    def enable(self, **options: Any) -> None:
        machine = machine_named(options["name"])
        expires_at = moment(options["until"]) if options["until"] else None
        order = RescueRequest(
            lifetime=options["lifetime"] or "",
            expires_at=expires_at,
            image=image_named(options["image"]),
            reason=options["reason"],
            password=options["password"],
        )
        try:
            rescue = Rescue.objects.enable(machine, order, actor_named(options["by"]))
        except RescueError as error:
            raise CommandError(str(error)) from error
        for warning in rescue.warnings():
            self.stderr.write(self.style.WARNING(f"Warning: {warning}"))
        text = (
            f"Rescue of {machine.name} is armed with image {rescue.image_name}. The machine boots the rescue system "
            "from its next power-on. Switch its power off and on."
        )
        if rescue.password:
            text += f"\nPassword of root (shown only once): {rescue.password}"
        shown = rescue_json(rescue) | ({"password": rescue.password} if rescue.password else {})
        self.show(shown, text, options)

    def disable(self, **options: Any) -> None:
        actor, reason = actor_named(options["by"]), options["reason"]
        rescue = _change(options["name"], lambda rescue: rescue.disable(actor, reason))
        self.show(rescue_json(rescue), f"Rescue of {rescue.machine.name} has ended. It boots its disk.", options)

    def try_again(self, **options: Any) -> None:
        actor = actor_named(options["by"])
        rescue = _change(options["name"], lambda rescue: rescue.try_again(actor))
        text = f"Rescue of {rescue.machine.name} is tried again. Switch its power off and on."
        self.show(rescue_json(rescue), text, options)

    def status(self, **options: Any) -> None:
        machine = machine_named(options["name"])
        rescue = machine.rescues.select_related("machine").first()
        if rescue and options["wait"]:
            self._wait(rescue, options["timeout"])
        if rescue is None:
            self.show(None, f"There has been no rescue of {machine.name}. It boots its disk.", options)
            return
        shown = rescue_json(rescue)
        lines = [
            [f"{name}:", "\n".join(value) if isinstance(value, list) else str(value)]
            for name, value in shown.items()
            if value
        ]
        self.show(shown, table(lines, ["", ""]).strip("\n") + _login(rescue), options)
        if options["wait"] and shown["state"] != Rescue.State.UP:
            raise NotSucceededError(f"The rescue of {machine.name} has ended: {shown['end_cause']}.")

    def _wait(self, rescue: Rescue, timeout: float) -> None:
        """Wait until `rescue` is up or ended, and print its state to standard error. Raises NotSucceededError."""
        until, printed = time.monotonic() + timeout, ""
        while (state := rescue.status_at().state) not in {Rescue.State.UP, Rescue.State.ENDED}:
            if state != printed:
                self.stderr.write(f"{rescue.machine.name}: {STATES[state]}")
                printed = state
            if rescue.failed_at:
                raise NotSucceededError(f"{rescue.machine.name}: {reason_text(Reason.RESCUE_FAILED)}")
            if time.monotonic() > until:
                raise NotSucceededError(f"{rescue.machine.name} is not up after {timeout:g} s: {STATES[state]}.")
            time.sleep(_POLL)
            rescue.refresh_from_db()


def _change(name: str, change: Callable[[Rescue], None]) -> Rescue:
    """Call `change` with the active rescue of the machine `name`, and return the rescue. Raises CommandError."""
    machine = machine_named(name)
    rescue = machine.rescues.active().first()
    try:
        if rescue is None:
            raise NoActiveRescueError(machine)
        change(rescue)
    except RescueError as error:
        raise CommandError(str(error)) from error
    return rescue


def _login(rescue: Rescue) -> str:
    """Explain how to log in; empty if the system is not up or its address is unknown."""
    if rescue.status_at().state != Rescue.State.UP or not rescue.address:
        return ""
    known = "".join(f"\n    {rescue.address} {key}" for key in rescue.host_keys)
    return f"\n\nLog in:\n    ssh root@{rescue.address}" + (f"\nknown_hosts:{known}" if known else "")
