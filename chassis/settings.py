"""Settings: frozen values, read once from the environment, `.env` and `hookd.toml`; all faults are reported together.

The only module that reads `os.environ`.
"""

import difflib
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

PREFIX = "HOOKD_"
ENV_FILE = Path(".env")
TOML_FILE = Path("hookd.toml")

# An IPv6 address in brackets, a name or an escaped path; a port; of several servers with commas.
HOST = r"(?:\[[0-9A-Fa-f:.%]+\]|[^][@:,/?#]*)(?::(?P<port>[0-9]{1,5}))?"
PORT_MAX = 65_535


class SettingsError(Exception):
    """What is wrong with the settings: one line for each fault, no value of a secret in any."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


class Settings(BaseSettings):
    """A group of settings. Names carry their unit last; outside, a name is `HOOKD_` and the field's in capitals."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", validate_default=False)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, *(source(settings_cls) for _, source in SOURCES)


def _environment(cls: type[BaseSettings]) -> PydanticBaseSettingsSource:
    return EnvSettingsSource(cls)


def _env_file(cls: type[BaseSettings]) -> DotEnvSettingsSource:
    return DotEnvSettingsSource(cls, env_file=ENV_FILE)


def _toml_file(cls: type[BaseSettings]) -> PydanticBaseSettingsSource:
    return TomlConfigSettingsSource(cls, toml_file=TOML_FILE)


# The first that has a setting wins.
SOURCES = (("environment", _environment), (str(ENV_FILE), _env_file), (str(TOML_FILE), _toml_file))
logging.getLogger("dotenv").setLevel(logging.ERROR)  # it warns of each line that it cannot read; load() tells of ours


def a_postgres_url(url: SecretStr) -> SecretStr:
    if not url.get_secret_value().startswith(("postgresql://", "postgres://")):
        raise ValueError("expected postgresql://user:password@host:port/database")
    if not _can_be_read(url.get_secret_value()):
        raise ValueError(
            "cannot be read: user and password are written with %2F for /, %40 for @, %3A for :, %23 for #, %3F for ? "
            "and %25 for %, and a port is a number"
        )
    return url


def _can_be_read(url: str) -> bool:
    """Whether the driver would understand it, whose own words quote what may be a part of the password."""
    try:
        parts = urlsplit(url)
        parse_qsl(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        return False
    log_in, at, place = parts.netloc.partition("@")
    hosts = [re.fullmatch(HOST, each) for each in (place if at else log_in).split(",")]
    return "#" not in url and all(host and int(host["port"] or 0) <= PORT_MAX for host in hosts)


def a_folder(value: object) -> object:
    if value == "":  # Path would make it the current folder
        raise ValueError("expected a folder")
    return value


class CommonSettings(Settings):
    """What every process reads."""

    database_url: Annotated[SecretStr, AfterValidator(a_postgres_url)] | None = Field(
        default=None,
        description="PostgreSQL to use, postgresql://…; without it, an embedded server below the data folder",
    )
    data_dir: Annotated[Path, BeforeValidator(a_folder)] | None = Field(
        default=None,
        description="folder of the embedded server; default: /var/lib/hookd for root, else ~/.local/share/hookd",
    )
    secret_key: SecretStr | None = Field(
        default=None,
        description="keys that seal the sources' secrets (Fernet; several with commas, the first seals); default: the "
        "file secret.key in the data folder, made when the first secret is kept",
    )
    allow_unsafe: bool = Field(
        default=False,
        description="accept a database with fsync or synchronous_commit off: an answered webhook may be lost",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least level that is logged; debug adds a line per event"
    )
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto", description="json or text; auto: text on a terminal, json elsewhere"
    )
    metrics_port: int = Field(
        default=9464,
        ge=0,
        le=65000,
        description="Prometheus on 127.0.0.1: the processor here, receiver worker i on this + i; 0: none",
    )
    grace_seconds: float = Field(
        default=20.0,
        ge=0,
        le=3600,
        description="after SIGTERM: how long open requests and running handlers may take to end",
    )


S = TypeVar("S", bound=Settings)


def load(groups: Sequence[type[Settings]], given: Mapping[str, Any] | None = None) -> dict[type[Settings], Settings]:
    """Read every group; `given` (a command line's options, by field name) wins over all sources.

    Raises SettingsError with all faults of all groups together.
    """
    if unreadable := list(_unreadable_files()):
        raise SettingsError(unreadable)
    given = {name: value for name, value in (given or {}).items() if value is not None}
    faults = [*_unheard_lines(), *_unknown_names(groups)]
    loaded: dict[type[Settings], Settings] = {}
    for group in groups:
        try:
            loaded[group] = group(**{name: value for name, value in given.items() if name in group.model_fields})
        except ValidationError as error:
            faults += [_fault(details) for details in error.errors(include_input=False, include_url=False)]
        except ValueError as error:  # a TOML file that does not parse
            faults.append(f"{TOML_FILE}: {error}")
    if faults:
        raise SettingsError(list(dict.fromkeys(faults)))
    return loaded


def _unreadable_files() -> Iterator[str]:
    for path in (ENV_FILE, TOML_FILE):
        try:
            if path.is_file():
                path.read_text("utf-8")
        except OSError as error:
            yield f"{path}: cannot be read: {error.strerror}"
        except UnicodeDecodeError as error:
            yield f"{path}: cannot be read: expected UTF-8, which it is not at byte {error.start + 1}"


def _fault(details: Mapping[str, Any]) -> str:
    message: str = details["msg"].removeprefix("Value error, ")
    if not details["loc"]:  # of several settings together, which it names itself
        return message
    return f"{PREFIX}{str(details['loc'][0]).upper()}: {message}"


def _unheard_lines() -> Iterator[str]:
    """What `.env` says of ours and nobody would hear. (Other lines are another program's, in its own form.)"""
    text = ENV_FILE.read_text(encoding="utf-8") if ENV_FILE.is_file() else ""
    understood = {name.upper() for name in _env_file(Settings).env_vars}
    for name in re.findall(rf"^[ \t]*(?:export[ \t]+)?({PREFIX}\w+)", text, re.MULTILINE):
        if name.upper() not in understood:
            yield f"{name} ({ENV_FILE}): cannot be read, expected {name}=value"


def _unknown_names(groups: Sequence[type[Settings]]) -> Iterator[str]:
    known = sorted(PREFIX + field.upper() for group in groups for field in group.model_fields)
    for origin, names in _names_present():
        for name in sorted(names - set(known)):
            near = difflib.get_close_matches(name, known, n=1)
            yield f"{name} ({origin}): no such setting" + (
                f"; did you mean {near[0]}?" if near else "; see: hookd settings"
            )


def _names_present() -> Iterator[tuple[str, set[str]]]:
    yield "environment", {name.upper() for name in os.environ if name.upper().startswith(PREFIX)}
    in_env_file = _env_file(Settings).env_vars
    yield str(ENV_FILE), {name.upper() for name in in_env_file if name.upper().startswith(PREFIX)}
    try:
        in_toml = TomlConfigSettingsSource(Settings, toml_file=TOML_FILE).toml_data
    except ValueError:
        in_toml = {}
    yield str(TOML_FILE), {PREFIX + name.upper() for name in in_toml}


@dataclass(frozen=True)
class Origin:
    """One line of `hookd settings`."""

    name: str
    value: str
    origin: str
    meaning: str


def describe(loaded: Mapping[type[Settings], Settings]) -> Iterator[Origin]:
    """Each setting with its value (a secret's only as ***), where it came from, and its meaning."""
    for group, values in loaded.items():
        found = {origin: source(group)() for origin, source in reversed(SOURCES)}
        for name, field in group.model_fields.items():
            origin = next((label for label, _ in SOURCES if name in found[label]), "default")
            yield Origin(PREFIX + name.upper(), _shown(getattr(values, name)), origin, field.description or "")


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return ",".join(map(str, value))
    return str(value)


def environment() -> Mapping[str, str]:
    """The process's environment, for what is not a setting (socket activation, the terminal)."""
    return os.environ


def data_folder(given: Path | None) -> Path:
    """Where the embedded server lives: as set, else the user's data folder (XDG), /var/lib/hookd for root."""
    if given is not None:
        return given.expanduser().absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/hookd")
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "hookd"
