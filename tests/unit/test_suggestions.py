import pytest

from guestctl.core.suggestions import did_you_mean, nearest


@pytest.mark.parametrize(
    ("word", "choices", "found"),
    [
        ("regoin", ["region", "origin"], ["region"]),
        ("quick_replies", ["quickReplies", "card"], ["quickReplies"]),
        ("DORP", ["drop", "delay"], ["drop"]),
        ("", ["drop"], []),
        ("x" * 100_000, ["drop"], []),
        ("colour", [], []),
    ],
)
def test_the_nearest_name_is_found_in_any_spelling(word: str, choices: list[str], found: list[str]) -> None:
    assert nearest(word, choices) == found


def test_several_names_come_most_similar_first() -> None:
    assert nearest("eu-central", ["eu-central-1", "us-east-1", "eu-central-2"], 2) == ["eu-central-2", "eu-central-1"]


def test_the_sentence_quotes_the_name_and_is_empty_without_one() -> None:
    assert did_you_mean("contain", ["contains"]) == '; did you mean "contains"?'
    assert did_you_mean("zzz", ["contains"]) == ""
