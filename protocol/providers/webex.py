"""Webex, once Cisco Spark."""

from protocol.naming import Json, Words, at_path, json_of, key_of, scalar
from protocol.providers.provider import READ, Provider, Sample, told
from protocol.request import Request
from protocol.schemes.keyed import Hmac

ONCE = frozenset({"created", "deleted"})  # each happens to a thing a single time


def delivery_key(request: Request) -> str | None:
    """Webex names no delivery: webhook, resource, event and thing, with the time of the change.

    Nothing where two changes of one thing would look alike (an event without a time that may come again): rather twice
    than never.
    """
    body = json_of(request)
    words = [scalar(at_path(body, path)) for path in ("id", "resource", "event", "data.id")]
    when = scalar(at_path(body, "data.updated"))
    if not all(words) or (when is None and words[2] not in ONCE):
        return None
    return key_of([*(word for word in words if word), when or ""])


PROVIDER = Provider(
    title="Webex",
    event_type=None,
    delivery_id=None,
    event_types=(Words((Json("resource"), Json("event"))),),
    delivery_ids=(delivery_key,),
    scheme=Hmac("X-Spark-Signature", algorithm="sha1"),
    setup="POST /v1/webhooks: targetUrl, resource, event and secret.",
    credential="the webhook's secret",
    duplicates="no delivery id: a key is derived from webhook, resource, event, data.id and data.updated",
    facts=(
        *told(
            "https://developer.webex.com/docs/api/guides/webhooks",
            READ,
            signature="HMAC-SHA1 of the body, hex, only where a secret was given; no vector is published",
            names="resource and event in the body (of today's envelope and of 2016's); id is the webhook's, not the "
            "delivery's",
            success="2xx",
            patience="not stated",
            retries="none stated; 100 failures in 5 min switch the webhook off until it is set active again",
        ),
    ),
    sample=Sample(
        {
            "id": "Y2lzY29zcGFyazovL3VzL1dFQkhPT0svc2FtcGxl",
            "name": "lighthouse",
            "resource": "messages",
            "event": "created",
            "filter": "mentionedPeople=me",
            "data": {
                "id": "{delivery}",
                "roomId": "Y2lzY29zcGFyazovL3VzL1JPT00vc2FtcGxl",
                "personEmail": "keeper@example.com",
                "created": "{iso}",
            },
        },
    ),
)
