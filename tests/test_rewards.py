"""What a completion earns: rewards by name, files of one's own, several of them, and what cannot be scored."""

import pytest

from torchstone.rewards import library


def one(reward, completion, answer):
    (score,) = reward(prompts=["?"], completions=[completion], answer=[answer])
    (chat,) = reward(
        prompts=[[{"role": "user", "content": "?"}]],
        completions=[[{"role": "assistant", "content": completion}]],
        answer=[answer],
    )
    assert score == chat
    return score


@pytest.mark.parametrize(
    ("completion", "answer", "exact", "lenient"),
    [
        ("12", "12", 1, 1),
        (" 12\n", "12", 1, 1),
        ("The sum is 12.", "12", 0, 1),
        ("12 of 13", "12", 0, 0),
        ("1,000", 1000, 0, 1),
        ("12,000,000.5", "12000000.5", 0, 1),
        ("it is 0.50", "1/2", 0, 1),
        ("= -5", "-5", 0, 1),
        ("8-5", "-5", 0, 0),
        ("x\u22125", "-5", 0, 0),
        ("is \u22125", "-5", 0, 1),
        ("1/0", "1", 0, 1),  # no fraction
        ("", "12", 0, 0),
        ("The answer is: Paris!", "paris", 0, 1),
        ("Paris, not Rome", "Paris", 0, 0),
        ("it is New York.", "new york", 0, 1),
        ("?", "?", 1, 1),
        ("3 apples", "3 apples", 1, 1),
        ("they are 3 Apples.", "3 apples", 0, 1),
        (".5", "0.5", 0, 1),
        ("version 2.", "2", 0, 1),
    ],
)
def test_a_strict_and_a_lenient_reading_of_one_answer(completion, answer, exact, lenient):
    assert one(library.exact, completion, answer) == exact
    assert one(library.lenient, completion, answer) == lenient


def test_an_answer_without_a_number_or_a_word_cannot_be_scored():
    assert one(library.last_number, "5", "five") is None and one(library.last_words, "5", "!") is None
    assert one(library.last_number, "five", "5") == 0 and one(library.last_number, "5 or 6", "6 apples") == 1
