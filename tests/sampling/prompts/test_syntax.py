"""The grammar of prompts, by the examples of its description, and what has no effect."""

import re

import pytest

from ragaf_jax.errors import UserError
from ragaf_jax.sampling.prompts.syntax import parse

PLAIN = ["", "a red house", "a: b, 1.5) c ] :) x", "16:9", "a\\b", "BREAKFAST, break ANDed <x>"]


def spans(text, **how):
    return [
        [(part, pytest.approx(weight)) for part, weight in one] for one in parse(text, **how)[0]
    ]


@pytest.mark.parametrize("text", PLAIN)
def test_text_without_syntax_is_one_span_of_itself(text):
    found = parse(text).parts
    assert found == [[(text, 1.0)]] if text else found == [[]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("an (important) word", [("an ", 1), ("important", 1.1), (" word", 1)]),
        ("(red: 1.30 )", [("red", 1.3)]),
        ("(red:-.5)", [("red", -0.5)]),
        ("[red]", [("red", 1 / 1.1)]),
        ("[[red] house]", [("red", 1 / 1.21), (" house", 1 / 1.1)]),
        ("((red:1.5) house:2)", [("red", 3), (" house", 2)]),
        ("([red])", [("red", 1)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        ("((a) b", [("a", 1.21), (" b", 1.1)]),
        ("a) b]", [("a) b]", 1)]),
        (r"\(a\) \[b\] \\", [(r"(a) [b] " + "\\", 1)]),
        (r"(a \(b\):1.2)", [("a (b)", 1.2)]),
        ("(one)(two)", [("onetwo", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [("a ", 1), ("house", 1.573), (" ", 1.1), ("on", 1), (" a ", 1.1)]
            + [("hill", 0.55), (", sun, ", 1.1), ("sky", 1.4641), (".", 1.1)],
        ),
    ],
)
def test_weights(text, expected):
    assert spans(text) == [expected]


def test_break_ends_a_part_within_brackets_too():
    assert spans("a BREAK b") == [[("a", 1)], [("b", 1)]]
    assert spans("(a BREAK b:2) c BREAK") == [[("a", 2)], [("b", 2), (" c", 1)], []]


def test_models_of_captions_with_brackets_read_numbers_alone():
    how = {"literal_brackets": True}
    for text in ("button (blood type)", "[red] house", r"\(a\)", "(a [b", "a) b]"):
        assert spans(text, **how) == [[(text, 1)]]
    assert spans("(a (b) [c]:2) (d)", **how) == [[("a (b) [c]", 2), (" (d)", 1)]]
    (notice,) = parse("[red] house", **how).notices
    assert notice.startswith("has [red], which is encoded as plain text: the model was trained on")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "(red:1.2.3)",
            r"The weight in ':1.2.3)' is not a number; write it like (word:1.3), or \( ",
        ),
        ("(red:1,3)", "The weight in ':1,3)' is not a number"),
        ("(red:+)", None),
        ("(red:1000)", "The weight in ':1000)' is too large; choose -100 to 100"),
    ],
)
def test_wrong_weights_are_refused(text, message):
    if message is None:
        assert spans(text) == [[("red:+", 1.1)]]  # no number at all
    else:
        with pytest.raises(UserError, match=re.escape(message)):
            parse(text)


@pytest.mark.parametrize(
    ("text", "notice"),
    [
        (
            "a <lora:red:0.8>",
            "has <lora:red:0.8>, which is left out: it names a network to load. Load LoRA files by "
            "--lora (loras= in Python).",
        ),
        ("<hypernet:x> a <lyco:y:1:2>", "has <hypernet:x>, <lyco:y:1:2>, which is left out"),
        ("[a:b:10]", "has [a:b:10], which is encoded as plain text: schedules, alternatives and"),
        ("[b:0.5] c", "has [b:0.5], which is encoded as plain text"),
        ("[a|b]", "has [a|b], which is encoded as plain text"),
        ("a AND b", "has AND, which is encoded as plain text"),
        ("a (b", "has a ( that is not closed; it extends to the end."),
        ("a [b", "has a [ that is not closed; it extends to the end."),
    ],
)
def test_syntax_without_effect_is_noticed(text, notice):
    (found,) = parse(text).notices
    assert found.startswith(notice)


def test_networks_to_load_are_no_description():
    assert spans("a <lora:red:0.8> house") == [[("a  house", 1)]]


def test_supported_syntax_gives_no_notice():
    for text in (*PLAIN, "(red:1.3) [house] BREAK ((door))", r"\(a\)"):
        assert parse(text).notices == []
