"""What a setting may be, for whoever builds a class by hand or by configuration."""

import pickle
from dataclasses import dataclass
from typing import Literal

import pytest

from sae_nfm.settings.values import Count, Fraction, NotAllowed, checked, held


@checked
class Part:
    def __init__(
        self, size: Count, share: Fraction, kind: Literal["wide", "narrow"], on: bool, limit: int | None
    ):
        self.given = (size, share, kind, on, limit)


class Same(Part):
    """Has the constructor of its parent."""


@dataclass
class Whole:
    parts: Count
    names: list[str]


GOOD = {"size": 1, "share": 0.5, "kind": "wide", "on": True, "limit": None}


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("size", 0, "size=0: allowed are whole numbers from 1"),
        ("size", 8.5, "size=8.5: allowed are whole numbers from 1"),
        ("size", "abc", "size=abc: allowed are whole numbers from 1"),
        ("size", True, "size=true: allowed are whole numbers from 1"),
        ("size", None, "size=null: allowed are whole numbers from 1"),
        ("size", float("nan"), "size=nan: allowed are whole numbers from 1"),
        ("share", 1.5, "share=1.5: allowed are fractions from 0 to 1"),
        ("kind", "wid", "kind=wid: allowed are wide, narrow; did you mean wide?"),
        ("on", 1, "on=1: allowed are true, false"),
        ("limit", "x", "limit=x: allowed are null and whole numbers"),
    ],
)
@pytest.mark.parametrize("target", [Part, Same])
def test_a_value_of_another_type_or_out_of_range_is_named_with_what_is_allowed(target, setting, value, words):
    settings = GOOD | {setting: value}
    with pytest.raises(NotAllowed) as by_hand:
        target(**settings)
    with pytest.raises(NotAllowed) as by_configuration:
        held(target, settings, "a.part")
    assert (str(by_hand.value), str(by_configuration.value)) == (words, f"a.part.{words}")


def test_a_float_that_is_whole_is_a_whole_number():
    size, _, _, _, limit = Part(1e5, 1, "wide", False, limit=8.0).given
    assert (repr(size), repr(limit)) == ("100000", "8")


def test_an_unknown_setting_is_answered_with_those_that_there_are():
    with pytest.raises(NotAllowed, match=r"part\.sise=1: .*did you mean size\?; allowed are size, share"):
        held(Part, {"sise": 1}, "part")


def test_what_is_to_become_an_object_is_left_alone():
    made = {"_target_": "somewhere.Part"}
    assert held(Part, {"size": made}, "part") == {"size": made}


def test_a_dataclass_needs_all_its_settings():
    assert held(Whole, {"parts": 2.0, "names": ["a"]}) == {"parts": 2, "names": ["a"]}
    with pytest.raises(NotAllowed, match=r"names=.*no value"):
        held(Whole, {"parts": 2})
    with pytest.raises(NotAllowed, match="names=text: allowed are lists of text"):
        held(Whole, {"parts": 2, "names": "text"})


def test_the_error_survives_the_way_to_another_process():
    error = NotAllowed("k", 9, "1 to 8", "too many").under("sae")
    assert str(pickle.loads(pickle.dumps(error))) == "sae.k=9: too many; allowed are 1 to 8"
