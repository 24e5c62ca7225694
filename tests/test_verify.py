"""`hookd verify`: a person's question, answered by the very code that judges deliveries."""

import json
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from hookd.commands.verify import command
from protocol.providers import PROVIDERS
from protocol.samples import credentials, sample_delivery
from tests.commands import Hookd

AT = 1_760_000_000
SIGNING = sorted(set(PROVIDERS) - {"none"})


def verify(folder: Path, provider: str, *more: str, fault: str | None = None) -> Result:
    """Write down a sample of the provider's as a person would have it, and ask."""
    sender = PROVIDERS[provider]
    assert sender.sample is not None
    keys = credentials(sender, AT)
    options = dict(sender.sample.options)
    sent = sample_delivery(sender, keys.key, AT, fault=fault, options=options)  # type: ignore[arg-type]
    (folder / "body").write_bytes(sent.body)
    (folder / "secret").write_text(keys.secret + "\n")
    arguments = ["--provider", provider, "--secret-file", str(folder / "secret"), "--method", sent.method]
    arguments += ["--url", sent.target, "--at", datetime.fromtimestamp(AT, UTC).isoformat(), *more]
    arguments += [part for name, value in sent.headers for part in ("-H", f"{name}: {value}")]
    arguments += [part for name, value in options.items() for part in ("--option", f"{name}={value}")]
    if keys.certificate:
        (folder / "certificate").write_bytes(keys.certificate)
        arguments += ["--certificate", str(folder / "certificate")]
    return CliRunner().invoke(command, [*arguments, str(folder / "body")])


@pytest.mark.parametrize("provider", SIGNING)
def test_a_genuine_delivery_is_verified(tmp_path: Path, provider: str) -> None:
    """Of every provider: exit code 0, and the word."""
    said = verify(tmp_path, provider)
    assert (said.exit_code, said.stdout) == (0, "verified\n"), said.output


@pytest.mark.parametrize("provider", SIGNING)
def test_a_forged_delivery_is_not(tmp_path: Path, provider: str) -> None:
    """Of every provider: exit code 1, which check failed and why, and the secret is not said."""
    said = verify(tmp_path, provider, "--json", fault="bad-signature")
    verdict = json.loads(said.stdout)
    assert said.exit_code == 1
    assert not verdict["verified"]
    assert verdict["check"]
    assert verdict["reason"]
    assert (tmp_path / "secret").read_text().strip() not in said.output


def test_the_usual_mistakes_are_tried(tmp_path: Path) -> None:
    """A body with a line's end too many is refused, and the hint says so."""
    verify(tmp_path, "github")
    body = tmp_path / "body"
    sent = sample_delivery(PROVIDERS["github"], credentials(PROVIDERS["github"], AT).key, AT)
    body.write_bytes(sent.body + b"\n")
    headers = [part for name, value in sent.headers for part in ("-H", f"{name}: {value}")]
    arguments = ["--provider", "github", "--secret-file", str(tmp_path / "secret"), *headers, str(body)]
    said = CliRunner().invoke(command, arguments)
    assert said.exit_code == 1
    assert "hint: the body was changed on the way" in said.stdout


def test_a_secret_of_another_form_is_found(tmp_path: Path) -> None:
    """A name where a topic's ARN is needed: the hint says what one looks like."""
    verify(tmp_path, "aws-sns")
    (tmp_path / "secret").write_text("lighthouse")
    said = CliRunner().invoke(
        command, ["--provider", "aws-sns", "--secret-file", str(tmp_path / "secret"), str(tmp_path / "body")]
    )
    assert said.exit_code == 1
    assert "hint: the secret is not a topic's ARN, such as arn:aws:sns:" in said.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--provider", "nobody", "body"), "not one of"),
        (("--provider", "github", "--secret-file", "none", "body"), "none: No such file"),
        (("--provider", "github", "--secret-env", "NO_SUCH", "body"), "NO_SUCH: there is no such variable"),
        (("--provider", "github", "--secret-file", "body", "--at", "noon", "body"), "expected a time"),
        (
            ("--provider", "github", "--secret-file", "body", "--at", "9999-12-31T23:59-12:00", "body"),
            "expected a time",
        ),
        (("--provider", "github", "--secret-file", "body", "--url", "http://[::1", "body"), "expected a URL"),
        (("--provider", "github", "body"), "a secret is needed, the webhook's secret: --secret-file"),
        (("--provider", "github", "--secret-file", "body", "-H", "no colon", "body"), "expected 'Name: value'"),
        (("--provider", "github", "--secret-file", "body", "--option", "x=y", "body"), "there is no such option"),
        (("--provider", "github", "--secret-file", "body", "missing"), "missing"),
    ],
)
def test_wrong_usage_is_said(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    """What is wrong is named, with exit code 2, and never a traceback."""
    (tmp_path / "body").write_bytes(b"{}")
    said = Hookd(tmp_path, {})("verify", *arguments)
    assert said.code == 2
    assert words in said.err
    assert "Traceback" not in said.err


def test_a_body_from_standard_input_is_not_taken_for_the_secret(tmp_path: Path) -> None:
    """Where nobody can be asked, and the body comes through a pipe, the secret that is missing is said to be."""
    done = CliRunner().invoke(command, ["--provider", "github", "-"], input="a body\n")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "a secret is needed" in done.stderr


@pytest.mark.parametrize("provider", ["meta", "websub"])
def test_what_only_handshakes_need_is_not_asked_for(tmp_path: Path, provider: str) -> None:
    """The verify token, which is a secret and would stand on the command line, has no part in a signature."""
    sender, secret = PROVIDERS[provider], tmp_path / "secret"
    sent = sample_delivery(sender, "s", AT)
    secret.write_text("s")
    (tmp_path / "body").write_bytes(sent.body)
    headers = [part for name, value in sent.headers for part in ("-H", f"{name}: {value}")]
    arguments = ["--provider", provider, "--secret-file", str(secret), *headers, str(tmp_path / "body")]
    assert CliRunner().invoke(command, arguments).stdout == "verified\n"


def test_the_help_has_an_example() -> None:
    """`hookd verify --help` shows a whole command."""
    assert "hookd verify --provider github" in (command.epilog or "")
    assert isinstance(command, click.Command)
