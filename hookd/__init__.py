"""hookd: a webhook inbox on PostgreSQL. What a handler author imports.

import hookd

@hookd.on("github", event="push")
async def deploy(event: hookd.Event) -> None:
    print(event.json()["repository"]["full_name"])
"""

try:
    from processor.handling.body import File
    from processor.handling.declare import Reject, Response, Retry, abort, on, webhook
    from processor.handling.event import Event
except (ImportError, AttributeError) as error:  # a processor.py or protocol.py that comes first on the import path
    raise ImportError(
        f"{error}: a file of yours named processor.py or protocol.py hides hookd's own package; "
        "start Python with -P, or rename the file"
    ) from error

__all__ = ["Event", "File", "Reject", "Response", "Retry", "abort", "on", "webhook"]
