"""manage.py machine add|list|show: the machines, for people at a terminal."""

from typing import Any

from django.core.management.base import CommandError

from machines.machine_fields import TEXTS
from machines.management.terminal import (
    TerminalCommand,
    actor_named,
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
        add = actions.add_parser("add", help="add a machine")
        add.add_argument("name")
        add.add_argument("--mac", action="append", default=[], required=True, help="may be given several times")
        add.add_argument(
            "--network",
            action="append",
            default=[],
            help="address or CIDR block that its requests may come from",
        )
        add.add_argument("--image", help="its rescue image; otherwise the default")
        add.add_argument(
            "--identity", action="append", default=[], metavar="NAME=VALUE", help="what it must say of itself"
        )
        add.add_argument(
            "--static-address",
            action="append",
            default=[],
            metavar="ADDRESS/LENGTH",
            help="of the rescue system; without one it asks DHCP",
        )
        add.add_argument("--gateway", action="append", default=[], help="of the rescue system")
        add.add_argument("--dns", action="append", default=[], help="a DNS server of the rescue system")
        for name in TEXTS:
            add.add_argument(f"--{name}", default="")
        add.add_argument("--by", metavar="USER", help="the user in whose name it is done")
        add.set_defaults(run=self.add)
        listing = actions.add_parser("list", help="list the machines")
        listing.set_defaults(run=self.list)
        show = actions.add_parser("show", help="show one machine")
        show.add_argument("name")
        show.set_defaults(run=self.show_one)
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
        raise CommandError(f"“{item}” is not a valid identity; write it like serial=CZ1234.")
    return name, value
