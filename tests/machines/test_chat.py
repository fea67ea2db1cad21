"""What staff wrote does nothing in a chat but be read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.conf import LazySettings
from hypothesis import given
from hypothesis import strategies as st

from machines.models import Machine, NotificationRule, RescueImage
from machines.notifications import chat
from machines.notifications.channels import webhook
from machines.notifications.delivery import deliver_due
from tests.machines.support import enable

WORDLESS = "\N{ZERO WIDTH SPACE}"


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("RAID lost two disks", "RAID lost two disks"),
        ("<!channel>", "&lt;!channel&gt;"),
        ("<@U123> <#C1>", f"&lt;@{WORDLESS}U123&gt; &lt;#C1&gt;"),
        ("<http://evil.example|click>", "&lt;http://evil.example|click&gt;"),
        ("R&D", "R&amp;D"),
        ("@channel @all, (@here)", f"@{WORDLESS}channel @{WORDLESS}all, (@{WORDLESS}here)"),
        ("by alice@example.net", "by alice@example.net"),
        ("[click](http://evil.example)", f"[click]{WORDLESS}(http://evil.example)"),
        ("![x](http://evil.example/x.png)", f"![x]{WORDLESS}(http://evil.example/x.png)"),
        ("[click][1]\n\n[1]: http://evil.example", f"[click]{WORDLESS}[1] [1]{WORDLESS}: http://evil.example"),
    ],
)
def test_marks_are_shown_and_not_followed(written: str, sent: str) -> None:
    assert chat.plain(written) == sent


@given(st.text(alphabet="<>&@[]():!a \n"))
def test_nothing_is_left_that_a_chat_follows(text: str) -> None:
    sent = chat.plain(text)
    assert not {"<", ">", "\n"} & set(sent)
    assert "](" not in sent
    assert " @a" not in f" {sent}"


def test_a_webhook_gets_the_reason_without_marks_and_as_it_was_written(
    machine: Machine, image: RescueImage, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []

    def post(url: str, body: bytes, *_: Any) -> int:
        sent.append(json.loads(body))
        return 200

    monkeypatch.setattr(webhook, "post", post)
    NotificationRule.objects.create(name="chat", url="https://chat.example.net/hook", events=["rescue.enabled"])
    enable(machine, reason="<!channel> R&D")
    assert deliver_due() == 1
    assert sent[0]["text"] == "web01: rescue enabled by tester: &lt;!channel&gt; R&amp;D"
    assert sent[0]["data"]["rescue"]["reason"] == "<!channel> R&D"
