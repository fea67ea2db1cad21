"""What staff wrote, so that a chat shows it and does nothing else with it. Pure."""

import re

#: What Slack, and those like it, read as a mark; https://docs.slack.dev/messaging/formatting-message-text
_MARKS = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
#: Where Mattermost and Discord see somebody called (@channel), and where Markdown hides an address behind a word.
_CALLS, _LINKS = re.compile(r"(?<!\w)@(?=\w)"), re.compile(r"\](?=[(\[:])")
_ZERO_WIDTH_SPACE = "\N{ZERO WIDTH SPACE}"


def plain(text: str) -> str:
    """`text` as one line without marks: calls nobody, and hides no address behind another text."""
    line = " ".join(text.split()).translate(_MARKS)
    return _LINKS.sub(f"]{_ZERO_WIDTH_SPACE}", _CALLS.sub(f"@{_ZERO_WIDTH_SPACE}", line))
