"""What all commands at a terminal share: actions, JSON, exit status."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError

from machines.models import Actor, Machine, RescueImage
from tests.machines.commands import ada, manage, manage_json
from tests.machines.support import enable

__all__ = ["ada"]


@pytest.mark.parametrize("command", ["machine", "rescue", "image"])
def test_a_command_without_an_action_says_which_there_are(command: str) -> None:
    with pytest.raises(CommandError, match="ACTION"):
        manage(command)


@pytest.mark.parametrize(
    "arguments",
    [
        ["machine", "show", "nobody"],
        ["machine", "add", "web01", "--mac", "52:54:00:00:00:01"],
        ["machine", "add", "a b", "--mac", "52:54:00:00:00:01"],
        ["rescue", "enable", "nobody"],
        ["rescue", "enable", "web01", "--until", "tomorrow"],
        ["rescue", "disable", "web01"],
        ["token", "add", "nobody", "x"],
        ["token", "revoke", "ada", "none"],
        ["import_machines", "/nonexistent.csv"],
        ["prune_audit", "--days", "0"],
        ["prune_jobs", "--days", "0"],
    ],
)
def test_what_was_not_done_ends_with_status_2(arguments: list[str], machine: Machine, ada: User) -> None:
    with pytest.raises(CommandError) as raised:
        manage(*arguments)
    assert raised.value.returncode == 2


def test_what_was_waited_for_in_vain_ends_with_status_1(machine: Machine, image: RescueImage, actor: Actor) -> None:
    rescue = enable(machine)
    with pytest.raises(CommandError) as raised:
        manage("rescue", "status", "web01", "--wait", "--timeout", "0")
    assert raised.value.returncode == 1
    rescue.disable(actor)
    with pytest.raises(CommandError) as raised:
        manage("rescue", "status", "web01", "--wait")
    assert raised.value.returncode == 1


def test_pruning_speaks_json(machine: Machine) -> None:
    assert manage_json("prune_audit") == {"audit_entries": 0, "notifications": 0, "files": 0, "rescues_ended": 0}
    assert manage_json("prune_jobs") == {"builds": 0, "flash_jobs": 0, "files": 0}
