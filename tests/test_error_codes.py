"""The stable code of every raw code that is known, held against the official client and the table of the docs."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
import runware.errors as official

from runware_flow.errors import stable_code
from runware_flow.wire.frames import decode_frame
from runware_flow.wire.problems import to_error

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "errors.md"

CATALOGUE = re.findall(
    r"\w+",
    """
invalidPositivePrompt invalidPositivePromptLength missingPositivePrompt missingDimensionParameters invalidWidth
invalidHeight invalidModel invalidDuration invalidPrompt invalidSteps invalidParameter validationError validationFailed
unsupportedParameter unsupportedTaskType unsupportedDuration valueTooLarge arrayTooSmall maxLycorisModelsExceeded
duplicatePreloadModelAIR conflictTaskUUID unknownParameter incompatibleParameters mismatchProviderSettingsProvider
unknownProviderSettingsProvider transparentModelMismatch modelOwnershipValidationError modelAlreadyExists
failedIpAdapterLoad invalidApiKey missingApiKey insufficientCredits providerInsufficientCredits
thirdPartyInsufficientCredits textInferenceVideoInputInsufficientCredits quotaExceeded paymentRequired
environmentPaused rateLimitExceeded inferenceRateLimitExceeded providerRateLimitExceeded
inferenceRateLimitRequestTooLarge contentModeration timeout timeoutProvider providerTimeout providerGatewayTimeout
webhookTimeout requestTimeout modelNotFound taskNotFound mediaNotFound providerNotFound taskExpired mediaExpired
providerError providerUnavailable providerBadGateway providerInternalError providerUnknownError
providerAuthenticationFailed serverError aborted httpError invalidConfig disconnected notImplemented parseError
conflictingState maxRequestSize rateLimit connection validation
""",
)
"""Protocol facts, section 8.3; what the official client lists itself is added."""


def rows():
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 5 and cells[2].startswith("`"):
            for raw_code in re.findall(r"`(\w+)`", cells[0]):
                for status in re.findall(r"\d+", cells[1]) or [None]:
                    yield raw_code, status and int(status), cells[2].strip("`"), cells[3].strip("`")


@pytest.mark.parametrize(("raw_code", "status", "there", "here"), [*rows()])
def test_every_row_of_the_documented_differences_is_one(raw_code, status, there, here):
    assert official.create_runware_error(raw_code, "no", status_code=status).code == there
    assert stable_code(raw_code, status) == here
    assert there != here


def test_the_documented_differences_are_all_there_are():
    lists = (official._SAFETY_CODES, official._AUTH_CODES, official._SERVER_ERROR_CODES, official._NOT_FOUND_CODES)
    known = set(CATALOGUE).union(*lists, official._PROVIDER_CODES, official._SDK_ONLY_RAW_CODES)
    differing = {raw_code for raw_code in known if official.derive_code(raw_code) != stable_code(raw_code)}
    documented = {raw_code for raw_code, status, _, _ in rows() if status is None}
    assert len(known) > 100
    assert differing <= documented
    assert documented & known == differing


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("The request timed out", "timeout"),
        ("Invalid API key", "auth"),
        ("Too many requests", "rateLimit"),
        ("Insufficient credits on the account", "quota"),
        ("Something happened", "unknown"),
    ],
)
def test_message_decides_where_nothing_else_does(message, code):
    assert stable_code("19", message=message) == stable_code(None, message=message) == code
    assert stable_code("19", 500, message) == "serverError"


def test_array_of_parameters_is_whole_here():
    entry = {"code": "missingDimensionParameters", "message": "m", "parameter": ["width", "height"]}
    assert official.parse_api_error({"errors": [entry]}).parameter == "width"
    (told,) = decode_frame(msgspec.json.encode({"errors": [entry]})).errors
    assert to_error(told).parameter == ("width", "height")
