from django.test import Client

from machines.models import Actor, Machine, Rescue, RescueImage
from machines.models.rescue import RescueOrder
from tests.conftest import MAC


def test_boot(client: Client, machine: Machine, image: RescueImage, actor: Actor) -> None:
    rescue = Rescue.objects.enable(machine, RescueOrder(), actor)
    r = client.get("/boot", {"mac": MAC})
    assert b"set rescuesite rescue" in r.content
    assert client.get(f"/boot/{rescue.token}/kernel").getvalue() == b"kernel bytes"
    assert client.get(f"/boot/{rescue.token}/ready").status_code == 200
