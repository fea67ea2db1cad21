"""How long a search may be, on pages and in the API: each of its words is looked for in several tables."""

MAX_CHARACTERS, MAX_WORDS = 200, 10


def search_objection(text: str) -> str:
    """Why nothing is searched for `text`; empty where it may be."""
    if len(text) > MAX_CHARACTERS or len(text.split()) > MAX_WORDS:
        return f"A search has room for {MAX_WORDS} words and {MAX_CHARACTERS} characters."
    return "A search cannot hold a zero byte." if "\0" in text else ""
