"""Answer a Slack command: `/light on`. `hookd up --app examples/slack_command.py`, and the command's URL at …/slack.

Slack shows what is answered within three seconds. What takes longer than the receiver waits is stored all the same, is
run by the processor, and can then be told at the command's response_url.
"""

from typing import Any

from typing_extensions import TypedDict

import hookd

lit: dict[str, bool] = {}


class Command(TypedDict):
    """Of the form that Slack sends, what a command needs."""

    command: str
    text: str
    user_id: str
    channel_id: str


@hookd.on("slack", where="payload.command == '/light'", reply=True)
async def light(command: Command) -> dict[str, Any]:
    """Turn the channel's light on or off, or say how it is."""
    channel, wish = command["channel_id"], command["text"].strip().lower()
    if wish not in ("", "on", "off"):
        return said(f"I know `on` and `off`, not `{wish}`.")
    if wish:
        lit[channel] = wish == "on"
    return said(f"<@{command['user_id']}>: the light is {'on' if lit.get(channel) else 'off'}.", for_all=bool(wish))


def said(text: str, *, for_all: bool = False) -> dict[str, Any]:
    """A message for whoever asked, or for all in the channel."""
    return {"response_type": "in_channel" if for_all else "ephemeral", "text": text}
