"""Fill the templates in the permissions of a scoped signing key: {{name()}}, {{subject()}}, {{tag(x)}} and their like.

A tag may have several values: then there are as many subjects, and for several tags every combination. Source: nats-server's
auth.go processUserPermissionsTemplate.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from shardbroker.auth.jwt import JwtError
from shardbroker.auth.model import Permissions, SubjectPermission
from shardbroker.subject import is_valid_subject

# auth.go maxPermTemplateSubjectExpansions
EXPANSIONS_MAX: Final = 4096
_TEMPLATE: Final = re.compile(r"\{\{.*?\}\}")
_TAG: Final = re.compile(r"(tag|account-tag)\((.*)\)", re.I | re.S)


@dataclass(frozen=True, slots=True)
class Subjects:
    """What templates can name."""

    name: str
    subject: str
    tags: tuple[str, ...]
    account_name: str
    account_subject: str
    account_tags: tuple[str, ...]


def fill(permissions: Permissions | None, names: Subjects) -> Permissions | None:
    """Permissions with all templates filled. Raises JwtError: a deny that comes to nothing must not be forgotten."""
    if permissions is None:
        return None
    return replace(
        permissions,
        publish=_fill_both(permissions.publish, names),
        subscribe=_fill_both(permissions.subscribe, names),
    )


def _fill_both(permission: SubjectPermission | None, names: Subjects) -> SubjectPermission | None:
    if permission is None:
        return None
    deny = _fill_list(permission.deny, names, must=True)
    if permission.allow is None:
        return replace(permission, deny=deny)
    allow = _fill_list(permission.allow, names, must=False)
    if permission.allow and not allow:
        # Nothing came of what was to be allowed: then nothing is, not everything.
        return SubjectPermission((), (*deny, ">"))
    return SubjectPermission(allow, deny)


def _fill_list(subjects: tuple[str, ...], names: Subjects, *, must: bool) -> tuple[str, ...]:
    filled: list[str] = []
    for text in subjects:
        templates = _TEMPLATE.findall(text)
        if not templates:
            filled.append(text)
            continue
        choices = [_values(template, text, names, must=must) for template in templates]
        count = 1
        for values in choices:
            count *= len(values)
            if count > EXPANSIONS_MAX - len(filled):
                raise JwtError(f"permission templates come to more than {EXPANSIONS_MAX} subjects")
        blanks = _TEMPLATE.sub("", text).count(" ")
        for combination in itertools.product(*choices):
            rest = iter(combination)
            subject = _TEMPLATE.sub(_next_of(rest.__next__), text)
            # A blank that came out of a template would make a queue group of what follows.
            if subject.count(" ") == blanks and all(map(is_valid_subject, subject.split(" "))):
                filled.append(subject)
            elif must:
                raise JwtError("generated invalid subject")
    return tuple(filled)


def _next_of(following: Callable[[], str]) -> Callable[[re.Match[str]], str]:
    return lambda match: following()


def _values(template: str, text: str, names: Subjects, *, must: bool) -> tuple[str, ...]:
    word = template[2:-2].strip()
    simple = {
        "name()": names.name,
        "subject()": names.subject,
        "account-name()": names.account_name,
        "account-subject()": names.account_subject,
    }.get(word.lower())
    if simple is not None:
        return (simple,)
    tag = _TAG.fullmatch(word)
    if tag is None:
        raise JwtError(f"template operation in {text[:80]!r} is not defined")
    prefix = tag[2].lower() + ":"
    tags = names.account_tags if tag[1].lower() == "account-tag" else names.tags
    values = tuple(value.removeprefix(prefix) for value in tags if value.startswith(prefix))
    if not values and must:
        raise JwtError(f"generated invalid subject: {tag[2][:40]!r} is not defined")
    return values
