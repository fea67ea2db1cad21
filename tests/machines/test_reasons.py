"""Each reason carries all that faces say of it."""

import pytest

from machines.boot.reasons import Outcome, Reason, reason_text, reason_words
from machines.wording import action_text

REFUSALS = {
    "address_not_allowed": "IP Failed Match",
    "address_mismatch": "IP Failed Match",
    "identity_missing": "Identity Failed Match",
    "identity_mismatch": "Identity Failed Match",
}


@pytest.mark.parametrize("reason", list(Reason))
def test_each_reason_has_a_sentence_for_staff(reason: Reason) -> None:
    assert reason.sentence.endswith(".")
    assert reason_text(reason.value) == reason.sentence


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason.outcome is Outcome.REFUSED])
def test_each_refusal_says_on_the_console_what_did_not_match_and_why(reason: Reason) -> None:
    assert reason.console == (REFUSALS[reason], f"Rescue refused: {reason}")


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason.outcome is Outcome.LOCAL])
def test_each_pass_through_begins_with_the_line_of_the_contract(reason: Reason) -> None:
    assert reason.console[0] == "No rescue mode requested, exiting"


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason.outcome is Outcome.RESCUE])
def test_a_rescue_has_a_script_of_its_own(reason: Reason) -> None:
    assert reason.console == ()


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("boot", "Boot request"),
        ("rescueimage_changed", "Image changed"),
        ("user_added", "User added"),
        ("sshkey_deleted", "SSH key deleted"),
        ("mac_attached", "MAC address attached"),
    ],
)
def test_what_was_done_is_told_in_words(action: str, words: str) -> None:
    assert action_text(action) == words


def test_a_reason_in_a_list_is_words() -> None:
    assert reason_words("identity_missing") == "identity missing"
    assert reason_words("disk_full, see ticket") == "disk_full, see ticket"


def test_what_staff_wrote_is_shown_as_it_is() -> None:
    assert reason_text("disk full") == "disk full"
