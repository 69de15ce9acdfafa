"""Which tests are slow. The default run leaves them out; `pytest -m slow` runs them and nothing else.

A path marks a whole file; a path and a name mark one test of it. `tests/test_suites.py` checks that each still exists.
Of a test that runs for each API, the default run takes one API and the slow run takes the others. Of the tests in
`ONE_CASE`, the default run takes one case.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence

#: Long fault schedules, kills, soaks and mutants.
_FAULTS = {
    "faults/test_counted.py::test_promises_and_shares_hold_in_a_sample_on_the_withholding_service",
    "faults/test_counted.py::test_promises_hold_in_a_sample_on_the_helpful_service",
    "faults/test_crowd.py",
    "faults/test_cursor.py",
    "faults/test_machine.py",
    "faults/test_send_kill.py",
    "faults/test_relay.py::test_every_mutant_of_the_relay_is_caught",
    "faults/test_relay.py::test_promises_of_the_relay_hold_in_a_sample",
    "faults/test_soak.py",
    "faults/test_shared_socket.py",
    "faults/test_tracing.py::test_a_thousand_random_schedules_with_spans",
    "faults/test_sockets_shared.py",
    "faults/test_short.py::test_a_few_seeds",
    "faults/test_short.py::test_a_few_seeds_through_the_recording_proxy",
    "faults/test_short.py::test_a_listener_killed_after_each_line_repeats_nothing",
    "faults/test_short.py::test_every_action_on_every_connection",
    "faults/test_short.py::test_every_mutant_is_caught",
    "faults/test_short.py::test_fixed_seeds",
    "faults/test_short.py::test_seeds_that_once_failed",
    "faults/test_short.py::test_the_correct_client_passes_the_schedules_of_the_mutants",
    "checks/test_ai_steps.py::test_what_a_judge_answers_decides",
    "checks/test_ai_steps.py::test_the_exit_code_follows_from_the_worst_outcome",
    "checks/test_ai_steps.py::test_a_violation_needs_evidence",
    "checks/test_ai_customers.py::test_an_answer_of_another_form_is_the_customers",
    "checks/test_scenario.py::test_steps",
    "cli/test_first_minute.py::test_every_command_in_a_text_exists",
    "cli/test_help.py::test_every_command_has_help_with_two_examples",
    "cli/test_help.py::test_every_session_command_takes_a_session",
    "cli/test_hooks.py::test_a_refusal_ends_the_command_and_no_redirect_is_followed",
    "cli/test_hooks.py::test_a_command_that_fails_is_reported_and_listening_goes_on",
    "cli/test_hooks.py::test_an_address_without_tls_or_with_a_user_is_refused",
    "cli/test_hooks.py::test_a_command_that_cannot_be_run_is_refused_at_once",
    "cli/test_hooks.py::test_from_filters_what_is_printed_and_passed_on",
    "cli/test_pattern_syntax.py::test_a_check_script_has_the_flags_i_and_m",
    "cli/test_picks.py::test_a_name_of_several_options_is_refused_with_the_choices",
    "cli/test_picks.py::test_chat_picks_as_send_does",
    "cli/test_picks.py::test_an_ambiguous_pick_is_an_error_of_the_check",
    "cli/test_picks.py::test_a_check_picks_as_send_does",
    "cli/test_picks.py::test_a_place_that_is_not_offered_is_refused",
    "integration/test_delivery_evidence.py::test_a_disk_that_fills_up_does_not_hide_a_doubt",
    "integration/test_history_after_reconnects.py::test_pages_with_tokens_are_read_from_the_last_one",
    "integration/test_sources.py::test_a_missing_sequence_number_is_awaited_once_and_reported",
    "sandbox/test_examples.py::test_the_sandbox_accepts_the_example",
    "sandbox/test_web_messaging_api.py::test_start_new_table",
}

#: Fuzzing, sweeps for secrets, memory.
_SECURITY = {
    "cli/test_yaml_files.py::test_a_bot_script_takes_bare_words_wherever_a_text_may_stand",
    "sandbox/test_examples.py::test_the_sandbox_refuses_a_damaged_request_without_side_effects",
    "security/test_canaries.py",
    "security/test_fuzz.py",
    "security/test_hostile_text.py",
    "security/test_memory.py",
    "security/test_warnings.py",
    "unit/test_views.py::test_twenty_thousand_lines_contain_no_forbidden_character",
    "integration/test_hostile_numbers.py::test_every_number_in_answers",
    "integration/test_hostile_numbers.py::test_every_number_in_frames",
    "integration/test_hostile_numbers.py::test_every_retry_after_header",
    "integration/test_unencodable_text.py::test_every_text_in_answers",
}

#: Every value of an input, where the default run has a few.
_SWEEPS = {
    "checks/test_ai_customers.py::test_two_hundred_planted_faults_are_the_customers",
    "checks/test_ai_injection.py",
    "checks/test_ai_peer_scripts.py",
    "checks/test_ai_recordings.py",
    "checks/test_ai_runs.py",
    "checks/test_ai_wire.py",
    "integration/test_received_tokens.py::test_each_further_token_that_cannot_be_used_is_refused",
    "integration/test_attach.py::test_stdin_that_holds_no_session_is_refused",
}

#: Tests that wait for a limit of some seconds.
_WAITS = {
    "checks/test_scenario.py::test_an_option_that_is_not_offered_cannot_be_picked",
    "checks/test_scenario.py::test_the_peers_scripts_pass_and_fail_as_they_say",
    "cli/test_check.py::test_an_internal_error_is_reported_with_its_attempt",
    "sandbox/test_bot.py::test_malformed_answers_are_problems_not_exceptions",
    "transport/test_transport_socket.py::test_a_timeout_while_sending_leaves_half_a_frame_and_ends_the_connection",
    "transport/test_transport_socket.py::test_pings_do_not_extend_the_wait",
    "cli/test_check.py::test_a_failing_script",
    "cli/test_errors.py::test_no_reply_in_time",
    "cli/test_hooks.py::test_a_command_that_answers_does_not_answer_itself",
    "cli/test_errors.py::test_idle_without_any_connection_fails",
    "transport/test_transport_tls.py::test_a_timeout_while_sending_over_tls",
}

#: Many processes, real shells, pseudo-terminals and signals.
_PROCESSES = {
    "checks/test_pytest_plugin.py",
    "cli/test_completion.py::test_a_real_shell_shows_descriptions",
    "cli/test_completion.py::test_completion_works_in_a_real_shell",
    "cli/test_completion.py::test_fish_offers_only_the_options_of_the_command",
    "cli/test_deployment.py",
    "cli/test_first_minute.py::test_the_workflow_runs",
    "cli/test_chat.py",
    "cli/test_profile.py::test_profiles_added_by_many_processes_at_once_are_all_there",
    "cli/test_sandbox_log.py::test_a_line_fits_the_terminal_and_keeps_the_status",
    "cli/test_sandbox_log.py::test_a_replay_logs_and_records_too",
    "cli/test_sandbox_log.py::test_a_trace_can_be_extended",
    "cli/test_sandbox_log.py::test_serve_goes_on_without_its_trace_and_exits_with_2",
    "cli/test_sandbox_log.py::test_serve_logs_while_it_serves",
    "cli/test_sandbox_log.py::test_the_trace_of_the_environment_is_that_of_the_guest",
    "cli/test_sandbox_log.py::test_what_fits_of_a_trace_on_a_full_disk_can_be_read",
    "cli/test_sandbox_log.py::test_without_v_nothing_is_printed",
    "cli/test_sandbox_options.py::test_a_shell_under_exec_shows_where_it_is",
    "cli/test_session_watch.py::test_a_terminal_shows_a_table_that_follows_changes",
    "cli/test_session_watch.py::test_each_change_is_one_line_across_a_restart",
    "cli/test_session_watch.py::test_json_has_one_line_for_each_change_too",
    "cli/test_signals.py",
    "integration/test_hooks.py::test_kills_lose_no_post_and_repeat_no_line",
    "integration/test_leftovers.py",
    "integration/test_processes.py",
    "integration/test_shared_reconnects.py::test_fifty_sessions_never_reconnect_more_than_twenty_times_a_minute",
    "integration/test_shared_socket.py::test_a_follower_joins_in_the_middle_of_a_flood",
    "integration/test_source_code.py",
    "integration/test_sources.py::test_many_listeners_do_not_reconnect_at_once",
    "integration/test_state_processes.py",
    "integration/test_through_proxy.py",
    "proxy/test_command.py",
    "relay/test_access.py::test_a_web_socket_takes_the_key_as_a_subprotocol",
    "relay/test_documented_readers.py::test_a_documented_reader_has_every_message_once",
    "relay/test_documented_readers.py::test_the_documented_page_shows_the_messages_in_a_browser",
    "relay/test_listen_relay.py",
    "relay/test_many_readers.py",
    "relay/test_missed_events.py",
    "relay/test_publish.py",
    "relay/test_sends.py",
    "relay/test_serving.py",
    "relay/test_readers.py::test_after_takes_a_time_and_kinds_choose_records",
    "relay/test_refusals.py::test_a_hint_is_for_a_reader_without_a_command_line",
    "relay/test_readers.py::test_only_one_relay_serves_a_session",
    "sandbox/test_serve.py",
    "checks/test_scenario.py::test_a_hundred_parallel_guests_receive_only_their_own_replies",
    "relay/test_readers.py::test_the_relay_continues_after_kill_9",
}

#: Gates: coverage, style, packaging, generated pages, every example of the help and README, every row of the bench,
#: searches of the whole source and of all of Unicode.
_GATES = {
    "cli/test_check.py::test_annotations_in_actions",
    "cli/test_check.py::test_expected_and_came_never_look_the_same",
    "cli/test_check.py::test_quiet_prints_only_failures",
    "cli/test_error_style.py::test_every_text_of_an_error_has_the_style",
    "cli/test_first_minute.py::test_on_the_sandbox",
    "cli/test_first_minute.py::test_the_shell_script_distinguishes_exit_codes",
    "cli/test_first_minute.py::test_your_own_deployment",
    "security/test_boundaries.py::test_nothing_turns_verification_off",
    "test_citations.py::test_every_citation_resolves",
    "test_layers.py",
    "unit/test_explanations.py::test_every_raised_failure_code_has_an_entry_with_its_exit_code",
    "unit/test_terminal.py::test_cells_is_never_less_than_the_width_that_rich_assumes",
    "unit/test_terminal.py::test_every_code_point_is_escaped_or_harmless",
    "unit/test_views.py::test_a_thousand_lines_contain_no_forbidden_character",
    "cli/test_first_minute.py::test_everyday_tasks",
    "cli/test_help_examples.py::test_an_example_runs",
    "test_api_docs.py::test_the_page_is_current",
    "test_phrases.py::test_files_use_plain_english",
    "test_readme.py::test_a_generated_part_is_current",
    "test_readme.py::test_the_picture_shows_what_is_printed_today",
    "bench/test_smoke.py",
    "cli/test_startup.py",
    "packaging/test_import.py",
    "packaging/test_package.py",
    "test_coverage.py",
    "test_style.py",
    "cli/test_topics.py::test_checks",
    "checks/test_ai_steps.py::test_every_report_shows_the_five_outcomes_apart",
}

#: Tests of many cases that take long together: the default run takes one case of each, and the slow run the others.
ONE_CASE = frozenset(
    {
        "checks/test_ai_customers.py::test_a_planted_fault_is_the_customers",
        "checks/test_ai_customers.py::test_what_a_good_customer_may_write_is_no_fault",
        "checks/test_scenario.py::test_the_order_on_the_wire_does_not_change_the_verdict",
        "proxy/test_faults.py::test_a_fault_at_the_proxy_equals_the_fault_in_the_sandbox",
        "cli/test_argument_bytes.py::test_bytes_that_are_not_utf_8_are_a_usage_error",
        "cli/test_ask.py::test_a_reply_without_text_is_drawn_as_send_draws_it",
        "cli/test_check.py::test_a_run_that_cannot_start_replaces_the_report",
        "cli/test_ci_commands.py::test_json_stays_exact",
        "cli/test_ci_commands.py::test_no_text_output_contains_a_command",
        "cli/test_completion.py::test_candidates",
        "cli/test_csv.py::test_every_list_can_be_csv",
        "cli/test_error_style.py::test_an_error_has_two_parts_at_every_width",
        "cli/test_error_style.py::test_an_error_in_a_script_has_the_style",
        "cli/test_errors.py::test_usage",
        "cli/test_files.py::test_download_strips_hostile_file_names",
        "cli/test_named_files.py::test_the_timeout_holds_while_a_pipe_is_read",
        "cli/test_no_replies.py::test_listen_and_history_show_it_as_it_is",
        "cli/test_output_modes.py::test_the_list_is_valid_when_a_line_fails",
        "cli/test_pattern_syntax.py::test_an_invalid_pattern_exits_2_everywhere_and_sends_nothing",
        "cli/test_pattern_syntax.py::test_expect_and_until_find_no_more_than_javascript",
        "cli/test_pattern_syntax.py::test_expect_and_until_have_no_flags",
        "cli/test_picks.py::test_pick_number_is_always_the_place",
        "cli/test_picks.py::test_send_picks_a_label_or_payload_before_a_place",
        "cli/test_print.py::test_print_frames_prints_what_is_sent",
        "cli/test_proxies.py::test_every_command_goes_through_the_proxy",
        "cli/test_rich.py::test_a_date_picker_with_times",
        "cli/test_rich.py::test_a_malformed_form_file",
        "cli/test_rich.py::test_quick_replies",
        "cli/test_sandbox_options.py::test_the_ready_line_for_people_has_every_address",
        "cli/test_sandbox_options.py::test_the_sandbox_profile_states_whether_its_sandbox_deduplicates",
        "cli/test_secrets_shown.py::test_a_value_that_equals_the_secret_is_masked",
        "cli/test_secrets_shown.py::test_no_part_of_a_proxy_password_is_resolved",
        "cli/test_session.py::test_an_invalid_session_name_is_refused",
        "cli/test_slow_patterns.py::test_any_nested_repetition_ends",
        "cli/test_trust.py::test_a_command_that_connects_needs_trust",
        "cli/test_widths.py::test_a_view_has_the_same_words_at_every_width",
        "cli/test_widths.py::test_what_guestctl_says_is_wrapped_between_words",
        "cli/test_yaml_files.py::test_content_takes_bare_words_wherever_a_text_may_stand",
        "faults/test_counted.py::test_random_schedules_find_the_mutants",
        "faults/test_floods.py::test_ask_gets_its_reply",
        "faults/test_floods.py::test_listen_prints_every_message",
        "integration/test_bad_answers.py::test_redirects_are_not_followed",
        "integration/test_bad_answers.py::test_rest_answers",
        "integration/test_events_in_the_stream.py::test_a_button_of_a_generic_template_is_shown_and_picked",
        "integration/test_events_in_the_stream.py::test_an_event_of_its_own_kind",
        "integration/test_events_in_the_stream.py::test_no_such_event_is_a_reply",
        "integration/test_failure_table.py::test_failure",
        "integration/test_held_messages.py::test_held_messages_are_printed_at_the_end",
        "integration/test_hostile_numbers.py::test_a_rate_limit_in_answer_to_a_send",
        "integration/test_hostile_numbers.py::test_a_retry_after_header",
        "integration/test_interrupted_listen.py::test_a_signal_loses_no_received_message",
        "integration/test_unencodable_text.py::test_an_answer_that_cannot_be_encoded_is_not_sent",
        "relay/test_readers.py::test_a_reader_that_returns_continues_after_its_last_id",
        "packaging/test_lock.py::test_indirect_requirements_are_locked",
        "sandbox/test_client_keys.py::test_deduplicates_decides_whether_a_repeated_key_is_stored_again",
        "sandbox/test_hostile_requests.py::test_bodies_of_refused_requests_are_not_buffered",
        "transport/test_transport_proxy.py::test_a_socks_proxy_that_cannot_be_reached_or_is_slow",
        "unit/test_dialects.py::test_no_frame_breaks_the_reader",
        "unit/test_views.py::test_a_message_never_leaves_its_place_on_the_screen",
    }
)

#: What a sample of the slow run never leaves out: what a change of text or of dependencies breaks most easily.
ALWAYS = frozenset(
    {
        "cli/test_error_style.py::test_every_text_of_an_error_has_the_style",
        "cli/test_first_minute.py::test_on_the_sandbox",
        "security/test_boundaries.py::test_nothing_turns_verification_off",
        "test_citations.py::test_every_citation_resolves",
        "test_layers.py",
        "unit/test_explanations.py::test_every_raised_failure_code_has_an_entry_with_its_exit_code",
        "cli/test_first_minute.py::test_the_workflow_runs",
        "test_api_docs.py::test_the_page_is_current",
        "test_phrases.py::test_files_use_plain_english",
        "test_readme.py::test_a_generated_part_is_current",
        "test_readme.py::test_the_picture_shows_what_is_printed_today",
    }
)

SLOW = frozenset(_FAULTS | _SECURITY | _SWEEPS | _WAITS | _PROCESSES | _GATES)


def sampled_api(test: str, apis: set[str]) -> str:
    """Return the API with which the default run takes a test: for half of the tests web-messaging, if it is one.

    The choice follows from the name of the test, so that the tests of a file together cover every API.
    """
    number, others = zlib.crc32(test.encode()), sorted(apis - {"web-messaging"})
    if "web-messaging" in apis and (not others or number % 2):
        return "web-messaging"
    return others[number // 2 % len(others)]


def default_case(test: str, cases: Sequence[str]) -> str:
    """Return the case of a test of `ONE_CASE` that the default run takes. The choice follows from the test's name."""
    return cases[zlib.crc32(test.encode()) % len(cases)]


def in_sample(name: str, test: str, share: int, seed: int) -> bool:
    """Say whether a sample of one in `share` slow tests takes this one: `name` as in `SLOW`, `test` with parameters."""
    return name in ALWAYS or name.partition("::")[0] in ALWAYS or random.Random(f"{seed} {test}").random() * share < 1
