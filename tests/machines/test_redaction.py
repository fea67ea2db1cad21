import logging

from machines.boot.redaction import RedactTokens

TOKEN = "nNjItTP-rEaLDJ6aDBY3lCWHPrU_NKxI"


def redacted(message: str, *args: object) -> str:
    record = logging.LogRecord("django.request", logging.WARNING, "", 0, message, args, None)
    RedactTokens().filter(record)
    return record.getMessage()


def test_a_token_in_a_logged_path_is_replaced() -> None:
    assert redacted("%s: %s", "Conflict", f"/boot/{TOKEN}/up") == "Conflict: /boot/<token>/up"


def test_other_messages_are_left_alone() -> None:
    assert redacted("Not Found: %s", "/boot/style.css") == "Not Found: /boot/style.css"
