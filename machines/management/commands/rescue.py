"""manage.py rescue enable|disable|status: the switch, for people at a terminal."""

import time
from typing import Any

from django.core.management.base import CommandError

from machines.boot.reasons import Reason, reason_text
from machines.management.terminal import (
    NotSucceededError,
    TerminalCommand,
    actor_named,
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

#: Seconds between two looks.
_POLL = 0.5


class Command(TerminalCommand):
    help = "Enable and disable rescue, and show how it stands."

    def add_actions(self, actions: Any) -> None:
        enable = actions.add_parser("enable", help="serve the rescue system from the next power-on")
        enable.add_argument(
            "--lifetime", choices=Rescue.Lifetime.values, help="default: one-boot, or until with --until"
        )
        enable.add_argument("--until", metavar="TIME", help="when it ends at the latest, like 2026-12-24T18:00")
        enable.add_argument("--image", help="otherwise the machine's, or the default")
        enable.add_argument("--password", action="store_true", help="make a password too; it is printed this once")
        enable.set_defaults(run=self.enable)
        disable = actions.add_parser("disable", help="boot the disk from the next power-on")
        disable.set_defaults(run=self.disable)
        again = actions.add_parser("try-again", help="serve a rescue again whose system never came up")
        again.set_defaults(run=self.try_again)
        status = actions.add_parser("status", help="show the latest rescue")
        status.add_argument(
            "--wait", action="store_true", help="until the rescue system is up, or the rescue has ended"
        )
        status.add_argument("--timeout", type=float, default=1800, metavar="SECONDS", help="of --wait (%(default)s)")
        status.set_defaults(run=self.status)
        for parser in (enable, disable):
            parser.add_argument("--reason", default="", help="kept in the audit log")
            parser.add_argument(
                "--by", metavar="USER", help="the user in whose name it is done, and whose keys are delivered"
            )
        again.add_argument("--by", metavar="USER", help="the user in whose name it is done")
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
            f"Rescue of {machine.name} is armed with image {rescue.image_name}: "
            "from its next power-on it boots the rescue system. Power it off and on."
        )
        if rescue.password:
            text += f"\nPassword of root, shown this once: {rescue.password}"
        shown = rescue_json(rescue) | ({"password": rescue.password} if rescue.password else {})
        self.show(shown, text, options)

    def disable(self, **options: Any) -> None:
        machine = machine_named(options["name"])
        rescue = machine.rescues.active().first()
        try:
            if rescue is None:
                raise NoActiveRescueError(machine)
            rescue.disable(actor_named(options["by"]), options["reason"])
        except RescueError as error:
            raise CommandError(str(error)) from error
        self.show(rescue_json(rescue), f"Rescue of {machine.name} has ended: it boots its disk.", options)

    def try_again(self, **options: Any) -> None:
        machine = machine_named(options["name"])
        rescue = machine.rescues.active().first()
        try:
            if rescue is None:
                raise NoActiveRescueError(machine)
            rescue.try_again(actor_named(options["by"]))
        except RescueError as error:
            raise CommandError(str(error)) from error
        self.show(rescue_json(rescue), f"Rescue of {machine.name} is tried again: power it off and on.", options)

    def status(self, **options: Any) -> None:
        machine = machine_named(options["name"])
        rescue = machine.rescues.select_related("machine").first()
        if rescue and options["wait"]:
            self._wait(rescue, options["timeout"])
        if rescue is None:
            self.show(None, f"There has been no rescue of {machine.name}: it boots its disk.", options)
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
        """Return once `rescue` is up or ended, saying on standard error how it goes. Raises NotSucceededError."""
        until, said = time.monotonic() + timeout, ""
        while (state := rescue.status_at().state) not in {Rescue.State.UP, Rescue.State.ENDED}:
            if state != said:
                self.stderr.write(f"{rescue.machine.name}: {STATES[state]}")
                said = state
            if rescue.failed_at:
                raise NotSucceededError(f"{rescue.machine.name}: {reason_text(Reason.RESCUE_FAILED)}")
            if time.monotonic() > until:
                raise NotSucceededError(f"{rescue.machine.name} is not up after {timeout:g} s: {STATES[state]}.")
            time.sleep(_POLL)
            rescue.refresh_from_db()


def _login(rescue: Rescue) -> str:
    """How to log in, where the system is up and has said where it is."""
    if rescue.status_at().state != Rescue.State.UP or not rescue.address:
        return ""
    known = "".join(f"\n    {rescue.address} {key}" for key in rescue.host_keys)
    return f"\n\nLog in:\n    ssh root@{rescue.address}" + (f"\nknown_hosts:{known}" if known else "")
