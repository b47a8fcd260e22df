"""Links to the pages of the service's documentation that help with an error (protocol facts, section 8.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runware_flow.errors import RunwareError, stable_code

if TYPE_CHECKING:
    from runware_flow.catalog.registry import Registry

__all__ = ("add_documentation", "create_runware_error", "documentation_of")

_ROOT = "https://runware.ai/docs"
_UTILITY_PAGES = {
    "accountManagement": "platform/account-management",
    "getResponse": "platform/task-polling",
    "getTaskDetails": "platform/task-polling",
    "imageUpload": "platform/media-storage",
    "mediaStorage": "platform/media-storage",
    "modelSearch": "platform/model-search",
    "modelUpload": "platform/model-upload",
}
_ABOUT_THE_CLIENT = frozenset({"auth", "connection", "aborted"})
"""Stable codes with which no page of a model helps: a key, a connection, a call that was given up."""


def documentation_of(
    code: str,
    *,
    task_type: str | None = None,
    model: str | None = None,
    parameter: str | tuple[str, ...] | None = None,
    page: str | None = None,
    registry: Registry | None = None,
) -> str:
    """Give the address of the page that helps with an error.

    Args:
        code: the stable code.
        task_type, model, parameter: what the error is about, as far as that is known; a model by its AIR or slug.
        page: the model's page, where the service itself named one; it wins over what the registry suggests.
        registry: where the slug of a model is looked up; the bundled one by default.
    """
    if task_type in _UTILITY_PAGES:
        return _with_anchor(f"{_ROOT}/{_UTILITY_PAGES[task_type]}", parameter)
    if code in _ABOUT_THE_CLIENT or (page is None and model is None):
        return f"{_ROOT}/platform/errors"
    found = page or _model_page(str(model), registry)
    # the models of the community have one page together
    return f"{_ROOT}/models" if found is None else _with_anchor(found, parameter)


def _with_anchor(page: str, parameter: str | tuple[str, ...] | None) -> str:
    name = parameter[0] if isinstance(parameter, tuple) and parameter else parameter
    if not isinstance(name, str) or not name or "#" in page:
        return page
    return f"{page}#request-{name.lower().replace('.', '-')}"


def _model_page(model: str, registry: Registry | None) -> str | None:
    if registry is None:
        from runware_flow.catalog.registry import load_registry

        registry = load_registry()
    entry = registry.models.get(registry.airs.get(model, model))
    return None if entry is None else f"{_ROOT}/models/{entry.slug}"


def add_documentation(
    error: RunwareError, *, model: str | None = None, page: str | None = None, registry: Registry | None = None
) -> RunwareError:
    """Give an error the link that it lacks; one that the service gave stays. Returns the same error."""
    if error.documentation is None:
        error.documentation = documentation_of(
            error.code,
            task_type=error.task_type,
            model=model,
            parameter=error.parameter,
            page=page,
            registry=registry,
        )
    return error


def create_runware_error(raw_code: str, message: str, *, model: str | None = None, **context: Any) -> RunwareError:
    """Build an error as the service's own would be built, for layers that wrap this library.

    Args:
        raw_code: the raw identifier; the stable code is derived from it.
        message: what happened, for a human.
        model: the AIR or slug of the model it is about, for the link to its page.
        **context: any other keyword of `RunwareError` (`parameter`, `task_type`, `status_code`, ...). Without
            `documentation` the link is derived as that of the service's errors is.
    """
    context.setdefault("code", stable_code(raw_code, context.get("status_code"), message))
    return add_documentation(RunwareError(message, raw_code=raw_code, **context), model=model)
