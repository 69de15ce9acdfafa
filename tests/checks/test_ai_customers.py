"""Customers with planted faults are errors of the test, and never failures of the bot."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.checks.ai_front import CUSTOMER, Bench, benches, good_customer, script
from tests.checks.model_server import Asked, completion, say

TALK = script(CUSTOMER.replace("turns: 6", "turns: 8"))
#: A bot that never reaches the goal, whatever the customer writes.
STUBBORN = "rules: [{contains: bye, reply: Goodbye!}]\notherwise: [Can you say more\\?, I see., Which one\\?]\n"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from benches(tmp_path)


#: The last twelve of each of the first two tuples and the last eight of the third one were written by somebody who had
#: not seen `customer_faults`. It recognised 9, 9 and 8 of them; what it lacked was added then.
FAREWELLS = (
    "ok, goodbye",
    "thanks, bye!",
    "Never mind. Have a nice day!",
    "that's all, thank you",
    "Thank you for your help, goodbye.",
    "okay, take care",
    "no further questions, bye",
    "thanks for the help, have a great evening",
    "cheers, bye now",
    "alright, see you",
    "great thanks, have a good one",
    "ok thx bye",
    "perfect, that's everything. bye-bye",
    "thank you so much, talk to you later",
    "fine, I'm leaving now. goodbye",
    "that will be all, thanks",
    "thanks anyway, have a good day",
    "ciao",
    "farewell",
    "I have what I need, thanks!",
)
SWAPS = (
    "Hello! How can I help you today?",
    "How may I assist you with your order?",
    "Sure, let me check that for you.",
    "Could you please provide your order number?",
    "Thank you for contacting us. What can I do for you?",
    "Your parcel is on its way.",
    "Is there anything else I can help you with?",
    "As an AI language model I cannot do that.",
    "Agent: I have found the parcel.",
    "Please confirm your postcode.",
    "I'd be happy to help with that!",
    "Welcome to our support chat!",
    "Good morning, you are speaking with the parcel team.",
    "Thanks for reaching out! Which order is this about?",
    "I have checked our system and your parcel left the depot.",
    "May I have your postcode, please?",
    "Let me look that up for you.",
    "We apologize for the delay with your parcel.",
    "Our team will contact you shortly.",
    "I can see here that your parcel is at the depot.",
    "Is there anything else I may help you with today?",
    "How can we help?",
    "As an AI assistant, I don't have a parcel.",
    "Bot: please hold on.",
)
INVENTED = (
    "it is 4712",
    "my order is 998877",
    "the postcode is 10116",
    "call me on 0170 1234567",
    "my mail is jane@example.com",
    "reference AB-7731",
    "it should have come on 12.05.",
    "see https://track.example/x",
    "i live at 12 rose street, 20095",
    "ticket INC0012345",
    "you can reach me at bob@mail.org",
    "my number is +49 151 2345678",
    "order 55501 then",
    "it was 17 euro 99",
    "tracking code 1Z999AA10123456784",
    "www.my-parcel.info/track",
)


def once_then(wrong: Callable[[random.Random], Any], turn: int) -> Callable[[random.Random], Callable[[Asked], Any]]:
    def make(chance: random.Random) -> Callable[[Asked], Any]:
        text = wrong(chance)
        return lambda asked: text if asked.turn >= turn else good_customer(asked)

    return make


def restart(chance: random.Random) -> Callable[[Asked], Any]:
    opening = chance.choice(["where is my parcel?", "Where is my parcel??", "hi, where is my parcel?"])
    return lambda asked: say("it is 4711") if asked.turn == 2 else say(opening)


def early_stop(chance: random.Random) -> Callable[[Asked], Any]:
    stop = chance.choice([json.dumps({"stop": "that was enough"}), say(chance.choice(FAREWELLS))])
    after = say(chance.choice(FAREWELLS))
    return lambda asked: stop if asked.turn == 2 else after


def endless_goodbye(chance: random.Random) -> Callable[[Asked], Any]:
    return lambda asked: good_customer(asked) if asked.turn == 2 else say(chance.choice(FAREWELLS))


#: Fault -> the function that makes a customer with it.
FAULTS: dict[str, Callable[[random.Random], Callable[[Asked], Any]]] = {
    "restart": restart,
    "early stop": early_stop,
    "endless goodbye": endless_goodbye,
    "role swap": once_then(lambda chance: say(chance.choice(SWAPS)), 2),
    "invented number": once_then(lambda chance: say(chance.choice(INVENTED)), 2),
    "empty answer": once_then(lambda chance: chance.choice([say(""), say("  "), "", completion(""), "{}"]), 2),
    "over-long answer": once_then(
        lambda chance: chance.choice([say("please tell me where it is " * 40), completion(say("a"), finish="length")]),
        2,
    ),
}


def outcomes(bench: Bench, fault: str, count: int, seed: int) -> list[str]:
    """Return the verdicts of customers with a fault, on a bot that never reaches the goal."""
    chance = random.Random(f"{fault} {seed}")
    makers = [FAULTS[fault](chance) for _ in range(count)]
    customers = {f"Customer {n}.": customer for n, customer in enumerate(makers)}

    def answer(asked: Asked) -> Any:
        name = next(name for name in customers if f'"{name}"' in asked.user)
        return customers[name](asked)

    text = ["ai: {model: small}\nscenarios:\n"]
    for name in customers:
        steps = CUSTOMER.replace("turns: 6", "turns: 8").replace("Impatient, short lower-case sentences.", name)
        text.append(f'  "{name}":\n{steps}')
    found = bench(answer, STUBBORN.replace("\\?", "?"))
    run = found.record("".join(text), "--parallel", "8")[1]
    return [one["verdict"] for one in run["scenarios"]]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_the_customers(bench: Bench, fault: str) -> None:
    found = outcomes(bench, fault, 6, seed=1)
    assert found.count("failed") == found.count("passed") == 0, found
    assert found == ["customer_failed"] * 6


@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS)
def test_two_hundred_planted_faults_are_the_customers(bench: Bench, fault: str) -> None:
    found = outcomes(bench, fault, 200, seed=2)
    assert found.count("failed") == found.count("passed") == 0
    assert found.count("customer_failed") >= 190


GOOD = (
    "can you give me your opening hours?",
    "what is your phone number?",
    "i am done waiting, when does it come?",
    "is there anything else you need?",
    "do you open at 9?",
    "my parcel is late. thanks for your help, but when does it arrive?",
    "4 7 1 1",
    "parcel 4711, 10115.",
    "it has been 2 days",
    "the 1st parcel was fine",
    "ok",
    "I see your message, but I need a day",
    "I see you have my parcel, so when does it come?",
    "my parcel left the depot, where is it now?",
    "is it in our street?",
    "we need the parcel, please",
)


@pytest.mark.parametrize("text", GOOD)
def test_what_a_good_customer_may_write_is_no_fault(bench: Bench, text: str) -> None:
    found = bench(lambda asked: say(text) if asked.turn == 2 else good_customer(asked))
    result = found.check(TALK)
    assert result.code == 0, result.out


def test_a_bot_that_asks_for_a_fact_again_and_again_fails(bench: Bench) -> None:
    """The customer must repeat itself, which is the bot's fault."""
    asks = ["Your postcode?", "I need the postcode.", "Postcode please!", "And the postcode?", "Tell me the postcode"]
    rules = "".join(f"  - {{match: ., times: 1, reply: '{ask}'}}\n" for ask in asks)
    for bot in (f"rules:\n{rules}otherwise: Which postcode is it?\n", "otherwise: The postcode, please.\n"):
        result = bench(lambda asked: say("10115"), bot).check(script(CUSTOMER))
        assert (result.code, "no reply met `until`" in result.out) == (1, True), result.out


def test_a_refusal_is_the_customers(bench: Bench) -> None:
    found = bench(lambda asked: completion(None, refusal="no"))
    result = found.check(TALK)
    assert (result.code, "the customer failed: the model refused to answer" in result.out) == (2, True)
    assert "code: check.customer (exit 2)" in result.out


@pytest.mark.parametrize("answer", ["I am a customer.", '{"say": 4711}', '{"say": "x", "stop": "y"}', '{"do": "x"}'])
def test_an_answer_of_another_form_is_the_customers(bench: Bench, answer: str) -> None:
    assert bench(lambda asked: answer).check(TALK).code == 2


def test_a_customer_without_a_goal_condition_may_stop(bench: Bench) -> None:
    found = bench(lambda asked: json.dumps({"stop": "all is said"}))
    result = found.check(script(CUSTOMER.replace("        until: {contains: arrives}\n", "")))
    assert (result.code, len(found.model.asked)) == (0, 1)
