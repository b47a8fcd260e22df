"""The options of a client: the keywords of `Client`, their defaults, and the environment variables behind them."""

from __future__ import annotations

import math
import os
import re
from difflib import get_close_matches
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, cast

import msgspec

from runware_flow.catalog.documentation import add_documentation
from runware_flow.errors import RunwareError
from runware_flow.secret import Secret
from runware_flow.session.options import RetryStrategy  # noqa: TC001  # help() reads the annotations of options
from runware_flow.transport.address import parse_address
from runware_flow.transport.connection import TransportError, check_headers
from runware_flow.types import problem_of_seconds
from runware_flow.wire.serverless import ENVIRONMENT_RULE, is_environment

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

    import httpx

    from runware_flow.client.log import LogEntry
    from runware_flow.transport.connection import Connector

__all__ = ("ClientKeywords", "ClientOptions", "Settings", "check_callback", "check_seconds", "read_settings")

Transport: TypeAlias = Literal["websocket", "rest", "auto"]


class ClientKeywords(TypedDict, total=False):
    """What `Client` takes besides the key. All times are seconds."""

    transport: Transport
    """`websocket` (default), `rest`, or `auto`: the WebSocket, or REST if it cannot be opened at first."""
    http_base_url: str | None
    """REST; by default `RUNWARE_HTTP_BASE_URL`, else the service's own address."""
    ws_base_url: str | None
    """WebSocket; by default `RUNWARE_WS_BASE_URL`, else the service's own address."""
    schemas_base_url: str | None
    """Models and their schemas; by default `RUNWARE_SCHEMAS_BASE_URL`, else the service's own address."""
    content_base_url: str | None
    """`client.content`; by default `RUNWARE_CONTENT_BASE_URL`, else the service's own address."""
    serverless_base_url: str | None
    """Serverless apps; by default `RUNWARE_SERVERLESS_BASE_URL`, else the service's own address."""
    serverless_environment: str | None
    """The environment of serverless apps for calls that name none; by default the service's `production`."""
    timeout: float
    """For one HTTP call (a POST, a poll)."""
    poll_timeout: float
    """For a task from its submission to its last result; `run(timeout=)` overrides it for one call."""
    auth_timeout: float
    """For the first connection, the authentication included."""
    max_retries: int
    """How often a request is sent again whose send failed; a refusal (429, 503) is waited out and does not count."""
    retry_delay: float
    """The pause before the first of them."""
    retry_strategy: RetryStrategy
    """How the delay grows from one to the next."""
    max_reconnect_attempts: float
    """Attempts in a row to open a lost connection again; unlimited by default."""
    debug: bool
    """Log what the session does: to `log_sink`, else as lines on standard error. Without it the standard logger
    `runware_flow` gets the entries."""
    validate: bool
    """Check every request against its model's schema before it is sent; a call's own `validate=` wins."""
    log_sink: Callable[[LogEntry], Any] | None
    """Called with each `LogEntry` while `debug` is on."""
    http_client: httpx.AsyncClient | None
    """Your own client for HTTP: proxies, certificates, pools. It is not closed. Its headers, cookies and authentication
    are sent to the service, not to the hosts of result files."""
    trust_env: bool
    """Go through the proxies that `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` name, on both transports."""
    ssl_context: ssl.SSLContext | None
    """The certificates to trust, on both transports, instead of certifi's authorities (or of those that `SSL_CERT_FILE`
    and `SSL_CERT_DIR` name); `ssl.create_default_context()` is the system's trust store."""
    connector: Connector | None
    """What opens WebSockets instead of the built-in carriers: proxies, tunnels, tests."""
    user_agent_prefix: str | None
    """Put before the library's own `User-Agent`, such as `my-app/2.0`."""


class ClientOptions(ClientKeywords, total=False):
    """Everything that `Client` takes: `Client(**options)`."""

    api_key: str | None
    """The account's key; by default `RUNWARE_API_KEY`."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """`ClientOptions` with every default filled in."""

    api_key: Secret
    transport: Transport = "websocket"
    http_base_url: str = "https://api.runware.ai/v1"
    ws_base_url: str = "wss://ws-api.runware.ai/v1"
    schemas_base_url: str = "https://schemas.runware.ai"
    content_base_url: str = "https://content.runware.ai"
    serverless_base_url: str = "https://api.serverless.runware.ai"
    serverless_environment: str | None = None
    timeout: float = 1200.0
    poll_timeout: float = 1200.0
    auth_timeout: float = 15.0
    max_retries: int = 3
    retry_delay: float = 1.0
    retry_strategy: RetryStrategy = "exponential"
    max_reconnect_attempts: float = math.inf
    debug: bool = False
    validate: bool = False
    log_sink: Any = None
    http_client: Any = None
    connector: Any = None
    trust_env: bool = False
    ssl_context: Any = None
    user_agent_prefix: str | None = None


_FROM_ENVIRONMENT = {
    "http_base_url": "RUNWARE_HTTP_BASE_URL",
    "ws_base_url": "RUNWARE_WS_BASE_URL",
    "schemas_base_url": "RUNWARE_SCHEMAS_BASE_URL",
    "content_base_url": "RUNWARE_CONTENT_BASE_URL",
    "serverless_base_url": "RUNWARE_SERVERLESS_BASE_URL",
}
_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")
"""Where `pollTimeout`, as the TypeScript client spells it, has an underscore here."""
_SCHEMES = {"ws_base_url": ("ws://", "wss://")}
_POSITIVE = ("timeout", "poll_timeout", "auth_timeout")
_NOT_NEGATIVE = ("max_retries", "retry_delay", "max_reconnect_attempts")
_CHOICES: dict[str, tuple[str, ...]] = {
    "transport": ("websocket", "rest", "auto"),
    "retry_strategy": ("exponential", "linear"),
}


def read_settings(options: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Settings:
    """Fill in what `options` leaves open from the environment and the defaults, and check it.

    Raises:
        RunwareError: `code="auth"` without a key, `code="validation"` for a value that cannot work.
    """
    environment = os.environ if environment is None else environment
    values = {name: value for name, value in options.items() if value is not None}
    unknown = set(values) - set(Settings.__struct_fields__)
    if unknown:
        name = min(unknown)
        like = get_close_matches(_CAPITAL.sub("_", name).lower(), Settings.__struct_fields__, 1, 0.7)
        raise _invalid(name, f"Client takes no option {name!r}" + (f"; is it {like[0]}?" if like else ""))
    for name, variable in _FROM_ENVIRONMENT.items():
        if name not in values and environment.get(variable):
            values[name] = environment[variable]
    values["api_key"] = _key(values.get("api_key") or environment.get("RUNWARE_API_KEY"))
    _check_values(values)
    _check_objects(values)
    _check_addresses(values)
    _check_environment(values.get("serverless_environment"))
    _check_user_agent(values.get("user_agent_prefix"))
    return Settings(**values)


def check_seconds(timeout: object, default: float, *, name: str = "timeout") -> float:
    """The timeout of one call (or another time, of this name), `default` if it is None.

    Raises:
        RunwareError: `validation`: it is no positive number. Nothing was sent, and nothing bought.
    """
    if timeout is None:
        return default
    problem = problem_of_seconds(name, timeout)
    if problem is not None:
        raise _invalid(name, problem)
    return float(cast("float", timeout))


def check_callback(name: str, callback: object) -> None:
    """Check a function that a call is given, before anything is sent: what came later would have been paid for.

    Raises:
        RunwareError: `validation`: it cannot be called, or calling it would run nothing of it.
    """
    if callback is None:
        return
    if not callable(callback):
        raise _invalid(name, f"{name}= takes a function, sync or async, not {callback!r:.80}")
    if isgeneratorfunction(callback) or isasyncgenfunction(callback):
        raise _invalid(name, f"{name}= is a function with `yield`, of which a call runs nothing: leave the `yield` out")


def _key(key: object) -> Secret:
    if isinstance(key, Secret):
        return key
    if not isinstance(key, str) or not key.strip():
        raise _unusable_key(
            "no API key: pass Client(api_key=...) or set RUNWARE_API_KEY; without a key there is the emulator:"
            " `runware-flow emulate -- COMMAND`",
            "missingApiKey",
        )
    if not key.strip().isascii() or any(character.isspace() for character in key.strip()):
        raise _unusable_key(
            "the API key holds spaces or characters that no key has; look for a copying mistake",
            "invalidApiKey",
        )
    return Secret(key.strip())


def _check_values(values: dict[str, Any]) -> None:
    for name in (*_POSITIVE, *_NOT_NEGATIVE):
        if values.get(name) is not None:
            _check_number(name, values[name])
    for name in ("trust_env", "debug", "validate"):
        if not isinstance(values.get(name, False), bool):
            raise _invalid(name, f"Client({name}=...) is True or False, not {values[name]!r}")
    for name, choices in _CHOICES.items():
        if name in values and values[name] not in choices:
            raise _invalid(name, f"Client({name}={values[name]!r}): choose one of {', '.join(map(repr, choices))}")


def _check_objects(values: dict[str, Any]) -> None:
    """Check what the client is to call, before a request needs it."""
    if "ssl_context" in values and not hasattr(values["ssl_context"], "wrap_bio"):
        raise _invalid("ssl_context", "Client(ssl_context=...) takes an ssl.SSLContext")
    for name in ("log_sink", "connector"):
        if not callable(values.get(name, print)):
            raise _invalid(name, f"Client({name}=...) takes a function, not {values[name]!r:.80}")
    if iscoroutinefunction(values.get("log_sink")):
        raise _invalid("log_sink", "Client(log_sink=...) takes a plain function: nothing would await an `async def`")
    http_client = values.get("http_client")
    if http_client is not None and (isinstance(http_client, type) or not hasattr(http_client, "aclose")):
        raise _invalid("http_client", f"Client(http_client=...) takes an httpx.AsyncClient, not {http_client!r:.80}")


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise _invalid(name, f"Client({name}=...) takes a number, not {value!r}")
    if value < 0 or (value == 0 and name in _POSITIVE):
        raise _invalid(name, f"Client({name}={value!r}): must be {'positive' if name in _POSITIVE else '0 or more'}")
    if name in _POSITIVE and (problem := problem_of_seconds(name, value)) is not None:
        raise _invalid(name, f"Client: {problem}")


def _check_addresses(values: dict[str, Any]) -> None:
    for name in _FROM_ENVIRONMENT:
        schemes = _SCHEMES.get(name, ("http://", "https://"))
        if name not in values:
            continue
        url = values[name]
        if not isinstance(url, str) or not url.lower().startswith(schemes):
            raise _invalid(name, f"Client({name}={url!r}): must start with {' or '.join(schemes)}")
        try:
            parse_address(url, tuple(scheme.removesuffix("://") for scheme in schemes))
        except TransportError as error:
            raise _invalid(name, f"Client({name}={url!r}): {error.message}") from None
        scheme, _, rest = url.partition("://")
        # The service redirects an address that ends in a slash, and no POST follows a redirect.
        values[name] = f"{scheme.lower()}://{rest if '?' in rest else rest.rstrip('/')}"


def _check_user_agent(prefix: object) -> None:
    name = "user_agent_prefix"
    if prefix is None:
        return
    if not isinstance(prefix, str):
        raise _invalid(name, f"Client({name}={prefix!r}): must be a text such as 'my-app/2.0'")
    try:
        check_headers({"User-Agent": prefix})
    except TransportError:
        problem = "HTTP allows visible ASCII characters and single spaces in it, such as 'my-app/2.0'"
        raise _invalid(name, f"Client({name}={prefix!r}): {problem}") from None


def _check_environment(environment: object) -> None:
    if environment is not None and not (isinstance(environment, str) and is_environment(environment)):
        name = "serverless_environment"
        raise _invalid(name, f"Client({name}={environment!r}): {ENVIRONMENT_RULE}")


def _unusable_key(message: str, raw_code: str) -> RunwareError:
    return add_documentation(RunwareError(message, code="auth", raw_code=raw_code))


def _invalid(parameter: str, message: str) -> RunwareError:
    error = RunwareError(message, code="validation", raw_code="invalidConfig", parameter=parameter)
    return add_documentation(error)
