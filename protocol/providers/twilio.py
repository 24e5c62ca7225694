"""Twilio: messages and calls."""

from protocol.naming import Form
from protocol.providers.provider import MEMORY, READ, URL, Provider, Sample, Success, told
from protocol.schemes.twilio import Twilio

PROVIDER = Provider(
    title="Twilio",
    event_type=None,
    delivery_id="I-Twilio-Idempotency-Token",
    event_types=(Form("EventType"), Form("CallStatus"), Form("MessageStatus"), Form("SmsStatus")),
    scheme=Twilio(),
    options=(URL,),
    success=Success(204, (), b""),
    patience_seconds=15,
    setup="The number's or the service's configuration: the URL as webhook, HTTP POST.",
    credential="the account's auth token",
    duplicates="a retry bears the same I-Twilio-Idempotency-Token",
    facts=(
        *told(
            "https://github.com/twilio/twilio-python/blob/main/tests/unit/test_request_validator.py",
            READ,
            signature="HMAC-SHA1 of the whole URL and the form's sorted names and values, base64; of another "
            "body the URL "
            "has its bodySHA256; with and without the port; published vectors. Another body without one is "
            "refused here",
        ),
        *told(
            "https://www.twilio.com/docs/usage/webhooks/webhooks-connection-overrides",
            MEMORY,
            names="I-Twilio-Idempotency-Token; CallStatus, MessageStatus in the form",
            success="2xx; what is answered is read as TwiML, so that it is empty here",
            patience="15 s in all, 5 s to connect",
            retries="0 to 5, as #rc= of the URL says; then the fallback URL",
        ),
    ),
    sample=Sample(
        b"MessageSid=SM{delivery}&AccountSid=AC00000000000000000000000000000000&From=%2B15005550006"
        b"&To=%2B15005550001&Body=Is+the+lamp+lit%3F&SmsStatus=received&NumMedia=0&FromCity=",
        {"I-Twilio-Idempotency-Token": "{delivery}"},
        content_type="application/x-www-form-urlencoded; charset=UTF-8",
    ),
)
