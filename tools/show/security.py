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
        "access::a_page_of_a_foreign_origin_is_never_the_owner_whatever_it_shows",
    ),
    "a bearer from before there was an owner": (
        "access::no_bearer_that_nobody_issued_is_anybody_once_somebody_owns_the_server",
        "access::an_owned_server_is_never_open_for_a_moment_after_a_restart",
    ),
    "an unsigned plugin, a build at its installation": (
        "plugins::a_tenants_admin_installs_nothing_that_nobody_trusted_has_signed",
        "plugins::nothing_is_built_while_a_plugin_is_installed",
        "plugins::a_plugin_reads_and_writes_what_is_its_own_and_nothing_else",
        "plugins::a_plugin_reaches_nothing_but_what_the_rules_allow",
    ),
    "a tenant's content on the console's origin": (
        "tenant_content::a_plugins_address_is_told_nothing_of_ours_and_sets_nothing_of_ours",
        "tenant_content::a_webhook_node_gets_no_cookie_even_where_it_declares_one",
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
        "egress::the_token_address_in_a_tenants_service_account_is_the_tenants_word",
        "egress::a_market_leads_to_no_private_place_but_its_own",
    ),
    "another tenant's OAuth token": (
        "caches::a_token_is_had_by_whoever_has_the_secret_alone",
    ),
    "prices that are no amounts, a house credential for nothing": (
        "numbers::a_tenant_cannot_store_such_a_price",
        "numbers::a_hosted_credential_costs_what_the_operator_says",
        "recovery::others_rows_are_settled_where_one_cannot_be_priced_or_read",
    ),
    "the operator's limit, deleted by its tenant": (
        "operator_rows::a_tenant_changes_nothing_that_the_operator_set",
    ),
    "what was disabled and goes on": (
        "access::what_is_switched_off_is_refused_on_every_way_in_on_every_server",
    ),
    "inner calls without the key": (
        "callers::every_way_to_a_model_keeps_the_caller",
        "callers::no_way_leads_to_a_model_that_the_key_may_not_call",
        "callers::a_keys_limit_holds_for_what_is_called_inside",
    ),
    "an owner demoted by an admin": (
        "operator_rows::nobody_touches_a_key_or_a_user_above_them_before_or_after",
        "operator_rows::nobody_changes_an_account_above_them_and_an_owner_stays",
        "operator_rows::the_last_way_in_as_owner_stays",
    ),
    "a plugin that two tenants share, its logs": (
        "plugins::two_tenants_share_nothing_of_a_plugin",
        "plugins::logs_are_read_by_whom_they_belong_to",
    ),
    "a secret sent to the description's address": (
        "tool_refresh::an_api_keeps_the_server_that_was_chosen",
        "tool_refresh::a_change_of_origin_is_asked_about_and_nothing_is_sent",
    ),
    "another user's file at the preview": (
        "sign_in::a_service_key_reaches_a_file_by_its_owners_name_alone",
    ),
    # Denial of service: one caller delays or blocks the others.
    "an answer in punycode": (
        "charsets::an_answer_in_punycode_holds_up_nobody",
        "charsets::only_encodings_of_the_list_are_ever_used",
    ),
    "nearly-JSON without end": ("json_repair::a_hostile_text_takes_bounded_work",),
    "a hundred passwords at once": (
        "sign_in::a_hundred_tries_at_once_are_five",
        "sign_in::whoever_is_known_signs_in_whatever_strangers_do",
        "sign_in::no_more_than_a_few_wait_for_a_password_to_be_looked_at",
    ),
    "idle connections, huge heads, endless bodies": (
        "connections::more_idle_connections_than_open_files_keep_nobody_out",
        "connections::forty_five_megabytes_of_headers_are_not_read",
        "connections::unfinished_bodies_of_strangers_leave_room_for_those_who_are_known",
        "connections::a_head_that_does_not_end_is_timed_out_and_said_to_be",
    ),
    "code nodes of one tenant, helpers for ever": (
        "sandbox::endless_programs_of_one_tenant_do_not_hold_up_another",
        "sandbox::helpers_are_few_and_those_of_whoever_has_most_go_first",
    ),
    "a scan for each invented user": (
        "restart::nothing_that_a_call_waits_for_looks_at_more_rows_than_its_own",
    ),
    "a restart in front of a large ledger": (
        "restart::a_counter_is_started_once_for_all_who_wait_and_after_what_the_dead_left",
        "restart::limits_go_on_to_the_unit_after_kill_9",
    ),
    "a session's look-up behind a long report": (
        "restart::a_long_read_keeps_nobody_from_a_short_one",
        "sign_in::cookies_that_nobody_gave_are_looked_up_off_the_loop_and_a_few_at_once",
    ),
    "a plugin that spins": (
        "plugins::a_call_that_never_ends_is_ended_and_delays_nobody_else",
    ),
    # Faults of the machine: clock, disk, restarts and shutdowns.
    "a clock that jumps ahead and back": (
        "clock::a_jump_ahead_and_back_refuses_nobody_for_longer_than_the_window",
        "clock::a_jump_that_is_soon_over_is_never_seen",
    ),
    "corrupt pages": (
        "corruption::damaged_pages_stop_billable_calls_until_a_backup_is_restored",
    ),
    "migrations edited, no way back": (
        "migrations::no_shipped_migration_is_edited",
        "migrations::an_older_database_is_copied_and_brought_up_to_date",
        "migrations::a_database_of_a_newer_version_says_what_to_do",
    ),
    "the end of the server in the middle of streams": (
        "shutdown::what_lasts_longer_than_the_grace_ends_in_the_words_of_its_format",
        "shutdown::a_second_signal_ends_the_server_at_once",
    ),
    "keys rotated beside a running server": (
        "secrets_rotation::two_servers_go_on_while_the_keys_are_rotated",
    ),
    "a PostgreSQL that is starting up": (
        "migrations::a_server_that_is_starting_up_is_waited_for",
    ),
    "datagrams and threads out of the sandbox": (
        "sandbox::nothing_is_sent_to_the_machines_own_services",
        "sandbox::a_program_has_so_many_threads_and_no_more",
    ),
    "requests that end in 500": ("refusals::mutated_requests_end_in_no_fault",),
    "files that every user of the machine reads": (
        "file_modes::everything_a_server_writes_is_its_owners_alone",
    ),
}
"""Weakness to the tests that reproduce it, as `module::test` without the `test_`
prefixes."""
RULES: Mapping[str, Sequence[str]] = {
    "caches: each key holds the tenant": (
        "caches::every_place_that_keeps_something_is_in_the_list",
    ),
    "ways out: one client": (
        "egress::nothing_leaves_the_server_but_through_the_one_client",
        "egress::no_module_below_the_app_chooses_the_unguarded_client",
    ),
    "callers: every route looks at Host and Origin first": (
        "access::every_route_of_an_open_server_looks_at_host_and_origin_first",
    ),
    "callers: inner calls": ("callers::whose_call_it_is",),
    "the operator's rows, of every kind": (
        "operator_rows::every_kind_of_row_is_the_operators_or_the_tenants",
    ),
    "the loop: patterns": (
        "patterns::re_compiles_only_what_stands_in_this_code",
        "patterns::no_pattern_of_this_code_takes_quadratic_time",
    ),
    "the loop: schemas, encodings": (
        "schemas::schemas_are_read_in_one_place",
        "charsets::no_encoding_from_outside_reaches_a_codec_but_through_the_list",
    ),
    "bodies of strangers, on every route": (
        "connections::no_route_reads_more_of_a_strangers_body_than_one_connection_holds_anyway",
    ),
    "numbers, of every shape and setting": (
        "numbers::no_shape_of_the_admin_api_takes_what_is_no_number",
        "numbers::no_setting_takes_what_is_no_number",
    ),
    "limits start where the rows say": (
        "restart::every_limit_starts_where_the_rows_say_whoever_wrote_them_and_however_often",
    ),
    "the sandbox: every program has a tenant": (
        "sandbox::every_caller_says_whose_program_it_is",
    ),
    "content: who reads headers": (
        "tenant_content::a_law_only_these_read_a_requests_headers_as_they_came",
    ),
    "refusals: every error has its status": (
        "refusals::every_error_of_ours_has_a_status",
        "refusals::numbers_from_outside_are_read_in_one_place",
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
