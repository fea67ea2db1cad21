"""manage.py machine add|list|show: add, list and show machines."""

from typing import Any

from django.core.management.base import CommandError

from machines.machine_fields import TEXTS
from machines.management.terminal import (
    TerminalCommand,
    actor_named,
    add_action,
    add_by_option,
    add_json_option,
    image_named,
    machine_named,
    printable,
    table,
)
from machines.models import Machine
from machines.representation import machine_json


class Command(TerminalCommand):
    help = "Add, list and show machines."

    def add_actions(self, actions: Any) -> None:
        add = add_action(actions, "add", self.add, "add a machine")
        add.add_argument("name")
        add.add_argument("--mac", action="append", default=[], required=True, help="can be repeated")
        add.add_argument(
            "--network", action="append", default=[], help="address or CIDR block that its requests may come from"
        )
        add.add_argument("--image", help="its rescue image (default: the default image)")
        add.add_argument(
            "--identity", action="append", default=[], metavar="NAME=VALUE", help="value that its requests must contain"
        )
        add.add_argument(
            "--static-address",
            action="append",
            default=[],
            metavar="ADDRESS/LENGTH",
            help="address of the rescue system (default: DHCP)",
        )
        add.add_argument("--gateway", action="append", default=[], help="gateway of the rescue system")
        add.add_argument("--dns", action="append", default=[], help="DNS server of the rescue system")
        for name in TEXTS:
            add.add_argument(f"--{name}", default="")
        add_by_option(add)
        listing = add_action(actions, "list", self.list, "list the machines")
        show = add_action(actions, "show", self.show_one, "show one machine")
        show.add_argument("name")
        for parser in (add, listing, show):
            add_json_option(parser)

    def add(self, **options: Any) -> None:
        machine = Machine.objects.add(
            options["name"],
            macs=options["mac"],
            allowed_networks=options["network"],
            image=image_named(options["image"]),
            identity=dict(_identity(item) for item in options["identity"]),
            rescue_network={
                "addresses": options["static_address"],
                "gateways": options["gateway"],
                "dns": options["dns"],
            },
            **{name: options[name] for name in TEXTS},
            actor=actor_named(options["by"]),
        )
        for remark in machine.identity_remarks():
            self.stderr.write(printable(remark))
        self.show(machine_json(machine), f"Machine {machine.name} added.", options)

    def list(self, **options: Any) -> None:
        found = [machine_json(machine) for machine in Machine.objects.for_lists()]
        rows = [
            [
                one["name"],
                one["state"],
                ", ".join(one["macs"]),
                ", ".join(one["allowed_networks"]) or "-",
                one["last_seen"] or "never",
            ]
            for one in found
        ]
        self.show(found, table(rows, ["NAME", "STATE", "MACS", "NETWORKS", "LAST SEEN"]), options)

    def show_one(self, **options: Any) -> None:
        shown = machine_json(machine_named(options["name"]))
        lines = [[f"{name}:", _readable(value)] for name, value in shown.items()]
        self.show(shown, table(lines, ["", ""]).strip("\n"), options)


def _readable(value: Any) -> str:
    match value:
        case list():
            return ", ".join(value)
        case dict():
            return ", ".join(f"{name}={_readable(one)}" for name, one in value.items() if one)
        case _:
            return str(value)


def _identity(item: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not equals:
        raise CommandError(f"“{item}” is not a valid identity. Enter it like serial=CZ1234.")
    return name, value
