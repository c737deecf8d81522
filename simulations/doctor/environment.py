"""What concerns others: telemetry, the sandbox for code that models write, the Hub, the clock."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

import httpx

from .finding import BROKEN, NOTE, OK, Finding

HUB = "https://huggingface.co"
HUB_TIMEOUT_S = 1.0
OLDEST_CLOCK = 1_767_225_600.0
"""1 January 2026, before this was written: a clock that says less is wrong."""
SKEW_S = 120.0
OFF = ("0", "false", "no", "off")
ON = ("1", "true", "yes", "on")
SWITCHES = {"FLWR_TELEMETRY_ENABLED": OFF, "HF_HUB_DISABLE_TELEMETRY": ON, "FLWR_DISABLE_UPDATE_CHECK": ON}
"""Environment variables that fedgrpo's commands set where nobody has, and the values that keep them quiet."""
VLLM_SWITCHES = ("VLLM_NO_USAGE_STATS", "DO_NOT_TRACK")


def check_telemetry(environment: Mapping[str, str], packages: Mapping[str, str]) -> Finding:
    """Whether a library would tell its makers that it is used."""
    talk = [f"{name}={environment[name]}" for name, quiet in SWITCHES.items() if environment.get(name, "") not in quiet]
    if "vllm" in packages and not any(environment.get(name) in ON for name in VLLM_SWITCHES):
        talk.append("VLLM_NO_USAGE_STATS is not 1")
    if talk:
        return Finding("telemetry", NOTE, ", ".join(talk), "unset what you set, and export DO_NOT_TRACK=1")
    return Finding(
        "telemetry", OK, "off in fedgrpo's commands; trackers (W&B and others) only where a setting asks for one"
    )


def check_sandbox() -> Finding:
    """What contains code that a model wrote, where a reward runs such code."""
    try:
        from ...client.learner import sandbox  # pyright: ignore[reportAttributeAccessIssue]
    except ImportError:
        return Finding("sandbox", NOTE, "this version has none, so no reward may run what a model writes")
    level = str(sandbox.level())
    if level.startswith("none"):
        return Finding("sandbox", NOTE, f"{level}; rewards that run code refuse to", "install bubblewrap")
    return Finding("sandbox", OK, level)


def check_hub(environment: Mapping[str, str], *, offline: bool) -> tuple[Finding, float | None]:
    """Whether models and data sets can be fetched: (the finding, what time the Hub says it is, if it answers)."""
    if offline or environment.get("HF_HUB_OFFLINE", "") in ON:
        return Finding("Hub", OK, "not asked (offline); local folders and --model builtin need none"), None
    url = environment.get("HF_ENDPOINT") or HUB
    try:
        answer = httpx.head(url, timeout=HUB_TIMEOUT_S, follow_redirects=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        said = f"{url} cannot be reached ({type(error).__name__})"
        return Finding(
            "Hub", NOTE, said, "local folders and --model builtin need none; else see to network and proxy"
        ), None
    if answer.status_code >= 400:
        return Finding("Hub", NOTE, f"{url} answers {answer.status_code}", "see to the proxy, or HF_ENDPOINT"), None
    return Finding("Hub", OK, f"{url} answers"), _time_of(answer.headers.get("date", ""))


def check_clock(now: float, theirs: float | None) -> Finding:
    """The clock: certificates are valid from and to a time, and messages expire.

    Args:
        now: seconds since 1970, as this machine has it.
        theirs: as the Hub has it; None where it was not asked.
    """
    said = time.strftime("%F %T %Z", time.localtime(now))
    if now < OLDEST_CLOCK:
        return Finding("clock", BROKEN, f"{said} is past", "set it (NTP): no certificate is valid at such a time")
    if theirs is None:
        return Finding("clock", OK, f"{said}, not compared")
    if abs(now - theirs) > SKEW_S:
        said += f", {abs(now - theirs):.0f} s {'ahead of' if now > theirs else 'behind'} the Hub's"
        return Finding("clock", BROKEN, said, "set it (NTP): certificates and messages would be refused")
    return Finding("clock", OK, f"{said}, as the Hub's")


def _time_of(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None
