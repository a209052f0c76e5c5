"""Vulnerabilities, denial-of-service weaknesses and machine faults found in security
reviews, each with the tests that cover it, and the rules that prevent more of the same
kind.

The tests run once, on SQLite and PostgreSQL if storage matters. A missing, skipped or
failed test is a failure.
"""

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.show.proof import ROOT, Proof

WEAKNESSES: Mapping[str, Sequence[str]] = {
    # Unauthorised access.
    "a foreign page that shows a remembered bearer": (
        "access::cross_site_requests_are_refused_with_any_credentials",
    ),
    "a bearer from before there was an owner": (
        "access::unknown_bearers_are_refused_once_the_server_has_an_owner",
        "access::an_owned_server_is_never_open_for_a_moment_after_a_restart",
    ),
    "an unsigned plugin, a build at its installation": (
        "plugins::a_tenants_admin_installs_nothing_that_nobody_trusted_has_signed",
        "plugins::nothing_is_built_while_a_plugin_is_installed",
        "plugins::a_plugin_reads_and_writes_what_is_its_own_and_nothing_else",
        "plugins::a_plugin_reaches_only_what_the_egress_rules_allow",
    ),
    "a tenant's content on the console's origin": (
        "tenant_content::a_plugin_endpoint_gets_and_sets_none_of_our_headers",
        "tenant_content::a_webhook_node_never_gets_cookies",
        "tenant_content::files_are_handed_over_and_run_nothing",
    ),
    "references of schemas, patterns that never end": (
        "schemas::nothing_is_fetched",
        "schemas::a_start_form_refuses",
        "patterns::a_pattern_that_goes_back_for_ever_elsewhere_is_quick_here",
    ),
    "a tenant's provider at an inner address": (
        "egress::a_tenants_provider_does_not_reach_the_private_network",
        "egress::no_form_of_an_inner_address_is_reached_as_a_tenants_provider",
        "egress::the_token_url_of_a_tenants_service_account_is_checked",
        "egress::a_marketplace_reaches_no_private_address_but_its_own",
    ),
    "another tenant's OAuth token": (
        "caches::a_cached_token_is_used_only_with_its_secret",
    ),
    "prices that are no amounts, a house credential for nothing": (
        "numbers::a_tenant_cannot_store_such_a_price",
        "numbers::a_hosted_credential_has_the_operators_price",
        "recovery::an_unpriceable_or_unreadable_row_does_not_block_others",
    ),
    "the operator's limit, deleted by its tenant": (
        "operator_rows::a_tenant_changes_nothing_that_the_operator_set",
    ),
    "what was disabled and goes on": (
        "access::what_is_switched_off_is_refused_on_every_way_in_on_every_server",
    ),
    "inner calls without the key": (
        "callers::every_way_to_a_model_keeps_the_caller",
        "callers::no_request_reaches_a_model_that_the_key_may_not_call",
        "callers::a_keys_limit_holds_for_what_is_called_inside",
    ),
    "an owner demoted by an admin": (
        "operator_rows::nobody_touches_a_key_or_a_user_above_them_before_or_after",
        "operator_rows::nobody_changes_an_account_above_them_and_an_owner_stays",
        "operator_rows::the_last_owner_key_cannot_be_removed",
    ),
    "a plugin that two tenants share, its logs": (
        "plugins::a_plugins_tenants_share_nothing",
        "plugins::logs_are_shown_only_to_their_tenant",
    ),
    "a secret sent to the description's address": (
        "tool_refresh::an_api_keeps_its_chosen_server",
        "tool_refresh::a_changed_origin_needs_confirmation_and_nothing_is_sent",
    ),
    "another user's file at the preview": (
        "sign_in::a_service_key_reaches_files_only_with_their_user",
    ),
    # Denial of service: one caller delays or blocks the others.
    "an answer in punycode": (
        "charsets::an_answer_in_punycode_does_not_block",
        "charsets::only_listed_encodings_are_used",
    ),
    "nearly-JSON without end": ("json_repair::a_hostile_text_takes_bounded_work",),
    "a hundred passwords at once": (
        "sign_in::a_hundred_tries_at_once_are_five",
        "sign_in::whoever_is_known_signs_in_whatever_strangers_do",
        "sign_in::the_queue_of_password_verifications_is_limited",
    ),
    "idle connections, huge heads, endless bodies": (
        "connections::more_idle_connections_than_open_files_block_nobody",
        "connections::forty_five_megabytes_of_headers_are_not_read",
        "connections::unfinished_bodies_of_strangers_leave_room_for_those_who_are_known",
        "connections::an_incomplete_head_times_out_with_an_error",
    ),
    "code nodes of one tenant, helpers for ever": (
        "sandbox::endless_programs_of_one_tenant_do_not_hold_up_another",
        "sandbox::helpers_are_limited_and_the_largest_tenants_are_evicted_first",
    ),
    "a scan for each invented user": ("restart::statements_of_admission_use_indexes",),
    "a restart in front of a large ledger": (
        "restart::a_counter_is_started_once_for_all_who_wait_and_after_what_the_dead_left",
        "restart::limits_go_on_to_the_unit_after_kill_9",
    ),
    "a session's look-up behind a long report": (
        "restart::long_reads_do_not_block_short_ones",
        "sign_in::unknown_cookies_are_looked_up_off_the_event_loop_with_a_limit",
    ),
    "a plugin that spins": (
        "plugins::an_endless_call_is_terminated_and_delays_nobody_else",
    ),
    # Faults of the machine: clock, disk, restarts and shutdowns.
    "a clock that jumps ahead and back": (
        "clock::a_jump_ahead_and_back_blocks_at_most_for_the_window",
        "clock::a_short_jump_is_ignored",
    ),
    "corrupt pages": (
        "corruption::damaged_pages_stop_billable_calls_until_a_backup_is_restored",
    ),
    "migrations edited, no way back": (
        "migrations::no_shipped_migration_is_edited",
        "migrations::an_older_database_is_backed_up_and_migrated",
        "migrations::a_newer_database_error_says_what_to_do",
    ),
    "the end of the server in the middle of streams": (
        "shutdown::streams_beyond_the_grace_period_end_with_an_error_in_their_format",
        "shutdown::a_second_signal_ends_the_server_at_once",
    ),
    "keys rotated beside a running server": (
        "secrets_rotation::two_servers_keep_working_during_key_rotation",
    ),
    "a PostgreSQL that is starting up": (
        "migrations::a_server_that_is_starting_up_is_waited_for",
    ),
    "datagrams and threads out of the sandbox": (
        "sandbox::local_datagrams_are_refused",
        "sandbox::the_threads_of_a_program_are_limited",
    ),
    "requests that end in 500": ("refusals::mutated_requests_cause_no_server_error",),
    "files that every user of the machine reads": (
        "file_modes::everything_a_server_writes_is_its_owners_alone",
    ),
}
"""Weakness to the tests that reproduce it, as `module::test` without the `test_`
prefixes."""
RULES: Mapping[str, Sequence[str]] = {
    "caches: each key holds the tenant": ("caches::every_cache_is_listed",),
    "ways out: one client": (
        "egress::all_network_calls_use_the_egress_client",
        "egress::only_listed_modules_use_the_unguarded_client",
    ),
    "callers: every route looks at Host and Origin first": (
        "access::every_route_of_an_open_server_looks_at_host_and_origin_first",
    ),
    "callers: inner calls": ("callers::the_caller_of_nested_calls",),
    "the operator's rows, of every kind": (
        "operator_rows::every_kind_of_row_is_classified",
    ),
    "the loop: patterns": (
        "patterns::re_compiles_only_what_stands_in_this_code",
        "patterns::no_pattern_of_this_code_takes_quadratic_time",
    ),
    "the loop: schemas, encodings": (
        "schemas::schemas_are_compiled_in_one_module",
        "charsets::every_decoding_uses_a_listed_encoding",
    ),
    "bodies of strangers, on every route": (
        "connections::no_route_buffers_the_body_of_an_unauthenticated_request",
    ),
    "numbers, of every shape and setting": (
        "numbers::no_shape_of_the_admin_api_takes_what_is_no_number",
        "numbers::settings_accept_only_finite_numbers",
    ),
    "limits start where the rows say": (
        "restart::every_limit_starts_as_counted_from_the_rows",
    ),
    "the sandbox: every program has a tenant": (
        "sandbox::every_sandbox_call_names_its_tenant",
    ),
    "content: who reads headers": (
        "tenant_content::only_listed_modules_read_raw_request_headers",
    ),
    "refusals: every error has its status": (
        "refusals::every_error_of_ours_has_a_status",
        "refusals::external_numbers_are_parsed_in_one_place",
    ),
}
"""Rule for the code base to the tests that enforce it."""


def outcomes() -> dict[str, list[str]]:
    """Run the security tests; return `module::test` without parameters to how each of
    its cases ended.

    Raises RuntimeError if pytest wrote no report.
    """
    with tempfile.TemporaryDirectory(prefix="modelyard-show-") as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-n",
            "2",
            "--dist",
            "loadgroup",
            f"--junitxml={report}",
            "tests/security",
        ]
        completed = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False
        )
        if not report.exists():
            raise RuntimeError(
                f"the tests did not run: {completed.stdout[-2000:]}{completed.stderr[-2000:]}"
            )
        tree = ET.parse(report)
    endings: dict[str, list[str]] = {}
    for case in tree.iter("testcase"):
        module = case.get("classname", "").rpartition(".")[2].removeprefix("test_")
        name = case.get("name", "").partition("[")[0].removeprefix("test_")
        # A test case without a child element in the JUnit report has passed.
        ended = next(
            (
                child.tag
                for child in case
                if child.tag in ("failure", "error", "skipped")
            ),
            "passed",
        )
        endings.setdefault(f"{module}::{name}", []).append(ended)
    return endings


def prove() -> Proof:
    """Run the tests and check that every weakness and rule has tests that passed."""
    proof = Proof()
    endings = outcomes()
    for category, table in (("hole", WEAKNESSES), ("law", RULES)):
        for title, tests in table.items():
            _report_coverage(proof, f"{category}: {title}", tests, endings)
    all_endings = [ending for cases in endings.values() for ending in cases]
    proof.line(
        "all tests of tests/security",
        f"{all_endings.count('passed')} of {len(all_endings)} passed",
        set(all_endings) <= {"passed", "skipped"},
    )
    proof.figures |= {
        "holes": len(WEAKNESSES),
        "laws": len(RULES),
        "cases": len(all_endings),
        "passed": all_endings.count("passed"),
        "skipped": all_endings.count("skipped"),
    }
    return proof


def _report_coverage(
    proof: Proof, label: str, tests: Sequence[str], endings: Mapping[str, list[str]]
) -> None:
    """Report whether all tests of a weakness or rule exist and passed in each case."""
    # A test that was renamed or removed must not silently stop covering its weakness.
    missing = [name for name in tests if name not in endings]
    failing_tests = [
        name for name in tests if not set(endings.get(name, ())) <= {"passed"}
    ]
    if missing or failing_tests:
        proof.line(label, f"missing {missing}, not passed {failing_tests}", False)
        return
    case_count = sum(len(endings[name]) for name in tests)
    proof.line(label, f"{case_count} cases", case_count > 0)
