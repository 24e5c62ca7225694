"""All that Errbot's own webhook tests ask of Errbot: the same requests, and what must come out, by hookd with replies.

The cases are those of Errbot's tests/webhooks_test.py, in its order; where we mean to differ, docs/errbot.md says so.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.commands import Hookd
from tests.processing import an_app
from tests.receiving import Remote, hookd_ingest
from tests.sending import Headers

pytestmark = pytest.mark.any_server

SENT = b'["foo", {"bar": ["baz", null, 1.0, 2]}]'
EXPECTED = repr(json.loads(SENT)).encode()
FORM: Headers = [(b"Content-Type", b"application/x-www-form-urlencoded")]

APP = '''
class Web:
    """What an Errbot plugin would be."""

    @hookd.webhook(reply=True)
    def webhook1(self, payload):
        return repr(payload)

    @hookd.webhook("/custom_webhook", reply=True)
    def webhook2(self, payload):
        return repr(payload)

    @hookd.webhook("/form", form_param="form", reply=True)
    def webhook3(self, payload):
        return repr(payload)

    @hookd.webhook("/custom_form", form_param="form", reply=True)
    def webhook4(self, payload):
        return repr(payload)

    @hookd.webhook("/raw", raw=True, reply=True)
    def webhook5(self, event):
        return str(type(event))

    @hookd.webhook(raw=True, reply=True)
    def raw2(self, event):
        return str(type(event))

    @hookd.webhook(reply=True)
    def webhook6(self, payload):
        return hookd.Response(headers=[("X-Powered-By", "Errbot")])

    @hookd.webhook(reply=True)
    def webhook7(self, payload):
        hookd.abort(403)


hookd.webhook("/echo", reply=True)(lambda payload: repr(payload))
hookd.webhook("/lambda", reply=True)(lambda payload: str(payload))
'''


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> str:
    return an_app(tmp_path_factory.mktemp("errbot"), APP, "webtest.py")


@pytest.fixture(scope="module")
async def errbot(url: str, app: str) -> AsyncIterator[Remote]:
    """A receiver that takes what its app has rules for, and nothing else."""
    async with hookd_ingest(url, app=app, unknown_sources="reject") as receiver:
        yield receiver


async def test_01_a_url_nobody_configured_is_404(errbot: Remote) -> None:
    """Errbot: test_not_configured_url_returns_404."""
    assert (await errbot.post("/randomness_blah", b'{"toto": "titui"}')).status == 404


def test_02_the_rules_are_listed(app: str, tmp_path: Path) -> None:
    """Errbot: test_webserver_plugin_ok, `!webstatus`: here it is `hookd routes`."""
    listed = Hookd(tmp_path, {})("routes", "--app", app)
    assert listed.code == 0, listed.err
    rules = [line.split()[0] for line in listed.lines[1:]]
    assert "/echo" in rules
    assert len(rules) == 10


async def test_03_without_a_trailing_slash(errbot: Remote) -> None:
    """Errbot: test_trailing_no_slash_ok."""
    assert (await errbot.post("/echo", SENT)).body == EXPECTED


async def test_04_with_a_trailing_slash(errbot: Remote) -> None:
    """Errbot: test_trailing_slash_also_ok."""
    assert (await errbot.post("/echo/", SENT)).body == EXPECTED


async def test_05_json_is_decoded(errbot: Remote) -> None:
    """Errbot: test_json_is_automatically_decoded; no Content-Type is needed."""
    assert (await errbot.post("/webhook1", SENT)).body == EXPECTED


async def test_06_json_is_decoded_on_a_custom_url(errbot: Remote) -> None:
    """Errbot: test_json_on_custom_url_is_automatically_decoded."""
    assert (await errbot.post("/custom_webhook", SENT)).body == EXPECTED


async def test_07_a_post_without_form_param(errbot: Remote) -> None:
    """Errbot: test_post_form_on_webhook_without_form_param_is_automatically_decoded (what it posts is no form)."""
    assert (await errbot.post("/webhook1", SENT)).body == EXPECTED


async def test_08_a_post_on_a_custom_url_without_form_param(errbot: Remote) -> None:
    """Errbot: test_post_form_on_webhook_with_custom_url_and_without_form_param_is_automatically_decoded."""
    assert (await errbot.post("/custom_webhook", SENT)).body == EXPECTED


async def test_09_a_forms_field_is_decoded(errbot: Remote) -> None:
    """Errbot: test_webhooks_with_form_parameter_decode_json_automatically."""
    assert (await errbot.post("/form", urlencode({"form": SENT}).encode(), FORM)).body == EXPECTED


async def test_10_a_forms_field_is_decoded_on_a_custom_url(errbot: Remote) -> None:
    """Errbot: test_webhooks_with_form_parameter_on_custom_url_decode_json_automatically (which asserts nothing)."""
    assert (await errbot.post("/custom_form", urlencode({"form": SENT}).encode(), FORM)).body == EXPECTED


async def test_11_the_raw_request(errbot: Remote) -> None:
    """Errbot: test_webhooks_with_raw_request: what is given is the request's own type, here the event."""
    assert b"Event" in (await errbot.post("/raw", urlencode({"form": SENT}).encode(), FORM)).body


async def test_12_the_raw_request_without_a_rule(errbot: Remote) -> None:
    """Errbot: test_webhooks_with_naked_decorator_raw_request."""
    assert b"Event" in (await errbot.post("/raw2", urlencode({"form": SENT}).encode(), FORM)).body


@pytest.mark.unmeasured
async def test_13_a_certificate_that_can_be_used(url: str, app: str, tmp_path: Path) -> None:
    """Errbot: test_generate_certificate_creates_usable_cert: one is made, told of, and served."""
    made = await asyncio.to_thread(Hookd(tmp_path, {}), "certificate")
    certificate, key = tmp_path / "hookd-cert.pem", tmp_path / "hookd-key.pem"
    assert made.code == 0, made.err
    for told in ("for localhost, 127.0.0.1, ", str(certificate), str(key), f"hookd ingest --tls-cert {certificate}"):
        assert told in made.out
    tls = ssl.create_default_context(cafile=certificate)
    async with hookd_ingest(
        url, app=app, unknown_sources="reject", tls=tls, tls_cert=certificate, tls_key=key
    ) as receiver:
        assert (await receiver.post("/webhook1", SENT)).body == EXPECTED


async def test_14_custom_headers_and_status_codes(errbot: Remote) -> None:
    """Errbot: test_custom_headers_and_status_codes."""
    assert (await errbot.post("/webhook6")).headers["x-powered-by"] == "Errbot"
    assert (await errbot.post("/webhook7")).status == 403


async def test_15_a_lambda(errbot: Remote) -> None:
    """Errbot: test_lambda_webhook."""
    assert (await errbot.post("/lambda")).status == 200
