"""Limit the length of searches on pages and in the API. Each word is searched in several tables."""

MAX_CHARACTERS, MAX_WORDS = 200, 10


def search_objection(text: str) -> str:
    """Return why `text` cannot be searched; empty if it can."""
    if len(text) > MAX_CHARACTERS or len(text.split()) > MAX_WORDS:
        return f"Enter at most {MAX_WORDS} words and {MAX_CHARACTERS} characters."
    return "A search cannot contain a zero byte." if "\0" in text else ""
