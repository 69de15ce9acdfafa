"""Which tests are slow. The default run leaves them out; `pytest -m slow` runs them and nothing else.

A path marks a whole file; a path and a name mark one test of it. `tests/test_suites.py` checks that each still exists.
Of a test that runs for each API, the default run takes one API and the slow run takes the others.
"""

from __future__ import annotations

import random
import zlib

#: Long fault schedules, kills, soaks and mutants.
_FAULTS = {
    "faults/test_counted.py::test_promises_and_shares_hold_in_a_sample_on_the_withholding_service",
    "faults/test_counted.py::test_promises_hold_in_a_sample_on_the_helpful_service",
    "faults/test_crowd.py",
    "faults/test_cursor.py",
    "faults/test_machine.py",
    "faults/test_send_kill.py",
    "faults/test_soak.py",
    "faults/test_sockets_shared.py",
    "faults/test_short.py::test_a_few_seeds",
    "faults/test_short.py::test_a_listener_killed_after_each_line_repeats_nothing",
    "faults/test_short.py::test_every_action_on_every_connection",
    "faults/test_short.py::test_every_mutant_is_caught",
    "faults/test_short.py::test_fixed_seeds",
    "faults/test_short.py::test_seeds_that_once_failed",
    "faults/test_short.py::test_the_correct_client_passes_the_schedules_of_the_mutants",
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
    "integration/test_received_tokens.py::test_each_further_token_that_cannot_be_used_is_refused",
    "integration/test_attach.py::test_stdin_that_holds_no_session_is_refused",
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
    "cli/test_sandbox_options.py::test_a_shell_under_exec_shows_where_it_is",
    "cli/test_signals.py",
    "integration/test_hooks.py::test_kills_lose_no_post_and_repeat_no_line",
    "integration/test_leftovers.py",
    "integration/test_processes.py",
    "integration/test_shared_reconnects.py::test_fifty_sessions_never_reconnect_more_than_twenty_times_a_minute",
    "integration/test_source_code.py",
    "integration/test_sources.py::test_many_listeners_do_not_reconnect_at_once",
    "integration/test_state_processes.py",
    "sandbox/test_serve.py",
}

#: Gates: coverage, style, packaging, generated pages, every example of the help, every row of the bench.
_GATES = {
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
}

#: What a sample of the slow run never leaves out: what a change of text or of dependencies breaks most easily.
ALWAYS = frozenset(
    {
        "cli/test_first_minute.py::test_the_workflow_runs",
        "test_api_docs.py::test_the_page_is_current",
        "test_phrases.py::test_files_use_plain_english",
        "test_readme.py::test_a_generated_part_is_current",
        "test_readme.py::test_the_picture_shows_what_is_printed_today",
    }
)

SLOW = frozenset(_FAULTS | _SECURITY | _SWEEPS | _PROCESSES | _GATES)


def sampled_api(test: str, apis: set[str]) -> str:
    """Return the API with which the default run takes a test: for half of the tests web-messaging, if it is one.

    The choice follows from the name of the test, so that the tests of a file together cover every API.
    """
    number, others = zlib.crc32(test.encode()), sorted(apis - {"web-messaging"})
    if "web-messaging" in apis and (not others or number % 2):
        return "web-messaging"
    return others[number // 2 % len(others)]


def in_sample(name: str, test: str, share: int, seed: int) -> bool:
    """Say whether a sample of one in `share` slow tests takes this one: `name` as in `SLOW`, `test` with parameters."""
    return name in ALWAYS or random.Random(f"{seed} {test}").random() * share < 1
