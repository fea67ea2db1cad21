"""Escape text of staff for chats. Pure."""

import re

#: The characters with a meaning in Slack: https://docs.slack.dev/messaging/formatting-message-text
_MARKS = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
#: Mentions in Mattermost and Discord (@channel), and the middle of a Markdown link.
_MENTIONS, _LINKS = re.compile(r"(?<!\w)@(?=\w)"), re.compile(r"\](?=[(\[:])")
_ZERO_WIDTH_SPACE = "\N{ZERO WIDTH SPACE}"


def plain(text: str) -> str:
    """Return `text` as one line without formatting, mentions and links."""
    line = " ".join(text.split()).translate(_MARKS)
    return _LINKS.sub(f"]{_ZERO_WIDTH_SPACE}", _MENTIONS.sub(f"@{_ZERO_WIDTH_SPACE}", line))
