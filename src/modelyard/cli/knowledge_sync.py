"""`modelyard knowledge sync`: keep a dataset in step with a source, its deletions and its
permissions."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from modelyard.base.errors import ConfigError
from modelyard.cli.output import json_option, print_json, print_note, run_with_modelyard
from modelyard.cli.usage import tenant_option

if TYPE_CHECKING:
    from modelyard.app import Modelyard
    from modelyard.knowledge.connectors.base import AccessRules, Source


@click.command("sync")
@click.argument("dataset")
@click.argument("source")
@click.option(
    "--access",
    "rules",
    multiple=True,
    metavar="PREFIX=WHO",
    help="Who may read documents whose keys begin with PREFIX: user:NAME, group:NAME,"
    " everyone or nobody, separated by commas; repeatable.",
)
@click.option(
    "--modes",
    "keeps_modes",
    is_flag=True,
    help="Keep the permissions of the files of a folder: owner, group and others.",
)
@click.option("--endpoint", default="", help="URL of an S3 server. Default: AWS.")
@tenant_option
@json_option
@click.pass_context
def sync(
    ctx: click.Context,
    dataset: str,
    source: str,
    rules: tuple[str, ...],
    keeps_modes: bool,
    endpoint: str,
    tenant: str,
    as_json: bool,
) -> int:
    """Bring DATASET up to date with SOURCE: a folder; s3://BUCKET/PREFIX with the keys of
    AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; or a space of Confluence,
    confluence:https://HOST/wiki/spaces/KEY, with CONFLUENCE_USER and CONFLUENCE_TOKEN.
    Exit code 1: documents were skipped.

    New and changed documents are read, deleted ones removed; access lists follow. An
    interrupted command goes on where it was when it is run again.
    """

    async def work(yard: "Modelyard") -> int:
        """Synchronise, index, and print the result."""
        from modelyard.knowledge.connectors.base import parse_rules

        datasets = yard.knowledge.datasets
        record = await datasets.get_by_id_or_name(tenant, dataset)
        opened = _open(yard, source, parse_rules(rules), endpoint, keeps_modes)
        report = await yard.knowledge.source_sync.run(record, opened)
        # The command ends with the process that indexes.
        for batch in report.batches:
            await datasets.wait(record, batch)
        if as_json:
            print_json(msgspec.to_builtins(report))
        else:
            click.echo(
                f"{dataset}: {report.added} added, {report.changed} changed,"
                f" {report.deleted} deleted, {report.same} unchanged,"
                f" {report.permissions} with other permissions, {report.skipped} skipped"
            )
            for reason in report.reasons:
                print_note(reason)
        return 1 if report.skipped else 0

    return run_with_modelyard(ctx, work)


def _open(
    yard: "Modelyard",
    source: str,
    rules: "AccessRules",
    endpoint: str,
    keeps_modes: bool,
) -> "Source":
    """Return the source of an address. Raises ConfigError if keys are missing."""
    from modelyard.knowledge.connectors.folder import FolderSource

    if source.startswith("confluence:"):
        return _open_confluence(yard, source, rules)
    if source.startswith("s3://"):
        return _open_bucket(yard, source, rules, endpoint)
    return FolderSource(Path(source), rules, keeps_modes=keeps_modes)


def _open_confluence(yard: "Modelyard", source: str, rules: "AccessRules") -> "Source":
    """Return a space of Confluence. Raises ConfigError if its address or its account is
    missing."""
    from modelyard.knowledge.connectors.confluence import ConfluenceSource

    url, _, space = source.removeprefix("confluence:").rpartition("/spaces/")
    if not url or not space:
        raise ConfigError(
            "A space of Confluence is confluence:https://HOST/wiki/spaces/KEY, not"
            f" {source!r}"
        )
    user = os.environ.get("CONFLUENCE_USER", "")
    token = os.environ.get("CONFLUENCE_TOKEN", "")
    if not user or not token:
        raise ConfigError(
            "Confluence needs CONFLUENCE_USER and CONFLUENCE_TOKEN in the environment"
        )
    return ConfluenceSource(
        yard.services.network.egress,
        url,
        space,
        user=user,
        token=token,
        rules=rules,
        # Whoever can run the command line owns the server.
        is_operators=True,
    )


def _open_bucket(
    yard: "Modelyard",
    source: str,
    rules: "AccessRules",
    endpoint: str,
) -> "Source":
    """Return a bucket. Raises ConfigError if the keys are missing."""
    from modelyard.knowledge.connectors.s3 import S3Credentials, S3Source

    # The variables of AWS's own tools, so that existing set-ups work.
    access_key = os.environ.get("AWS_ACCESS_KEY_ID", "")
    secret_key = os.environ.get("AWS_SECRET_ACCESS_KEY", "")
    if not access_key or not secret_key:
        raise ConfigError(
            "S3 needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment"
        )
    bucket, _, prefix = source.removeprefix("s3://").partition("/")
    return S3Source(
        yard.services.network.egress,
        bucket,
        prefix,
        credentials=S3Credentials(
            access_key=access_key,
            secret_key=secret_key,
            session_token=os.environ.get("AWS_SESSION_TOKEN", ""),
            region=os.environ.get("AWS_REGION", "us-east-1"),
        ),
        get_time=yard.services.clock.time,
        endpoint=endpoint,
        # Only an operator can run this command, so the address may be a private one.
        is_operators=bool(endpoint),
        rules=rules,
    )
