import logging

from machines.boot.redaction import QuietStrangers, RedactTokens

TOKEN = "nNjItTP-rEaLDJ6aDBY3lCWHPrU_NKxI"


def redacted(message: str, *args: object) -> str:
    record = logging.LogRecord("django.request", logging.WARNING, "", 0, message, args, None)
    RedactTokens().filter(record)
    return record.getMessage()


def test_a_token_in_a_logged_path_is_replaced() -> None:
    assert redacted("%s: %s", "Conflict", f"/boot/{TOKEN}/up") == "Conflict: /boot/<token>/up"


def test_a_token_at_the_end_of_a_path_is_replaced() -> None:
    assert redacted(f"Not Found: /boot/{TOKEN}") == "Not Found: /boot/<token>"


def test_a_refused_request_is_one_line_without_a_traceback() -> None:
    record = logging.LogRecord("django.security.DisallowedHost", logging.ERROR, "", 0, "Invalid HTTP_HOST", (), None)
    record.exc_info = (ValueError, ValueError("x"), None)
    assert QuietStrangers().filter(record)
    assert record.exc_info is None


def test_a_wrong_path_under_boot_is_not_logged() -> None:
    record = logging.LogRecord("django.request", logging.WARNING, "", 0, "Not Found: /boot/x/y", (), None)
    record.status_code = 404
    assert not QuietStrangers().filter(record)


def test_other_messages_are_left_alone() -> None:
    assert redacted("Not Found: %s", "/boot/style.css") == "Not Found: /boot/style.css"
