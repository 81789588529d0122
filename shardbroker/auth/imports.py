"""Which imports an account may have: someone exports it to them, it can be mapped, and it forms no cycle.

Source of the rules: nats-server's accounts.go addServiceImportWithClaim, addMappedStreamImportWithClaim, checkAuth,
checkServiceImportsForCycles, checkStreamImportsForCycles, setExportAuth, AddWeightedMappings. Used for configuration files
and for account JWTs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Mapping as Map
from typing import Final

from shardbroker.auth.model import Account, Export, Import, Mapping
from shardbroker.subject import collides, has_wildcard, is_subset, is_valid_subject, split
from shardbroker.transform import Transform, check_mapping, tokenize, untokenize

# As accounts.go MaxAccountCycleSearchDepth bounds its search; here it counts what was looked at.
CYCLE_SEARCH_MAX: Final = 100_000

# Whether the activation token of an import is good for (exporting account, export).
TokenCheck = Callable[[str, Export, Import, str], bool]


class ImportProblem(ValueError):
    """Why an import, export or mapping cannot be; nats-server's words."""


def check_exports(exports: Iterable[Export], export: Export) -> None:
    """Whether an account may have an export. `exports` are all it has so far, this one too. Raises ImportProblem."""
    if not is_valid_subject(export.subject):
        raise ImportProblem("invalid subject")
    at = export.account_token_position
    if at > 0:
        tokens = split(export.subject)
        if len(tokens) < at or tokens[at - 1] != "*":
            raise ImportProblem("invalid subject")
    if export.latency is not None:
        if export.response_type != "singleton":
            raise ImportProblem("bad service response type")
        results = export.latency.subject
        if not is_valid_subject(results) or has_wildcard(results):
            raise ImportProblem("invalid publish subject")
        # The results of a service must not be requests to it.
        if any(other.kind == "service" and is_subset(results, other.subject) for other in exports):
            raise ImportProblem("invalid publish subject")


def find_export(account: Account, kind: str, subject: str) -> Export | None:
    """The export that covers a subject: the same one before one that is wider."""
    wider = None
    for export in account.exports:
        if export.kind == kind:
            if export.subject == subject:
                return export
            if wider is None and is_subset(subject, export.subject):
                wider = export
    return wider


def may_import(exporter: Account, importer: str, made: Import, token_check: TokenCheck | None = None) -> bool:
    """Whether an account lets another import a subject (checkStreamExportApproved, checkServiceExportApproved)."""
    # For a service the subject that is asked there; place holders of `to` play no part in it.
    export = find_export(exporter, made.kind, made.subject)
    if export is None:
        return False
    if not export.accounts and not export.token_required and not export.account_token_position:
        return True
    if export.account_token_position:
        tokens = split(made.subject)
        at = export.account_token_position
        # An import of the export's own subject, wildcard and all, would see everybody's.
        return at <= len(tokens) and tokens[at - 1] == importer
    if export.token_required:
        return token_check is not None and token_check(exporter.name, export, made, importer)
    return importer in (export.accounts or ())


def check_import(
    accounts: Map[str, Account], importer: Account, made: Import, token_check: TokenCheck | None = None
) -> None:
    """Whether an account may have one import more. `accounts`: all, with the imports so far, the importer's too.

    Raises ImportProblem or TransformError.
    """
    exporter = accounts[made.account]
    target = untokenize(made.to)[0]
    if not is_valid_subject(made.subject) or not is_valid_subject(target):
        raise ImportProblem("invalid subject")
    if not may_import(exporter, importer.name, made, token_check):
        raise ImportProblem(f"{made.kind} import not authorized")
    if exporter.name == importer.name and collides(target, made.subject):
        raise ImportProblem("import forms a cycle")
    if made.kind == "stream":
        for subject in (target, made.subject):
            _find_cycle(accounts, "stream", exporter, subject, importer.name)
        if has_wildcard(made.subject) and made.to != made.subject:
            Transform(made.subject, tokenize(made.to), strict=True)
        if any(_same(other, made) for other in importer.imports):
            raise ImportProblem("stream import already exists")
        return
    _find_cycle(accounts, "service", exporter, target, importer.name)
    for other in importer.imports:
        if other.kind == "service" and (other.account, other.to) == (made.account, made.to):
            raise ImportProblem(
                f'duplicate service import subject "{made.to}", previously used in import for account '
                f'"{other.account}", subject "{other.subject}"'
            )
    if has_wildcard(made.subject) and made.to != made.subject:
        Transform(made.subject, tokenize(made.to), strict=True).reverse()


def _same(one: Import, other: Import) -> bool:
    return one.kind == other.kind and one.account == other.account and one.subject == other.subject


def _find_cycle(accounts: Map[str, Account], kind: str, account: Account, subject: str, origin: str) -> None:
    """Whether `subject` of `account` comes, by imports of imports, from `origin` again. Raises ImportProblem.

    Only cycles through the newest import can be new, so that only the way back to its account is looked for.
    """
    seen = {(account.name, subject)}
    waiting = [(account, subject)]
    while waiting:
        account, subject = waiting.pop()
        if kind == "stream" and not any(
            export.kind == kind and collides(subject, export.subject) for export in account.exports
        ):
            continue
        for made in account.imports:
            if made.kind != kind or made.account not in accounts:
                continue
            local = untokenize(made.to)[0]
            if not collides(subject, local):
                continue
            if made.account == origin:
                raise ImportProblem("import forms a cycle")
            following = (made.account, local if is_subset(local, subject) else subject)
            if following not in seen:
                seen.add(following)
                waiting.append((accounts[made.account], following[1]))
        if len(seen) > CYCLE_SEARCH_MAX:
            raise ImportProblem("search cycle depth exhausted")


def check_mapping_list(mapping: Mapping) -> None:
    """Whether a mapping's destinations can be, and weigh 100 at most. Raises ImportProblem or TransformError."""
    totals: dict[str, int] = {}
    seen: set[str] = set()
    for one in mapping.destinations:
        if one.destination in seen:
            raise ImportProblem(f'duplicate entry for "{one.destination}"')
        seen.add(one.destination)
        totals[one.cluster] = totals.get(one.cluster, 0) + one.weight
        if totals[one.cluster] > 100:
            raise ImportProblem("total weight needs to be <= 100")
        check_mapping(mapping.source, one.destination)
