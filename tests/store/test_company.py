"""Studies that share a process: who has the turn, what is computed once, whose random numbers are whose."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch

from sae_nfm.store.company import ALONE, Together


def together(*studies):
    """Run functions of a company as its members; what each returned or raised."""
    company, found = Together(ThreadPoolExecutor(1)), [None] * len(studies)

    def run(number, study):
        try:
            found[number] = study(company)
        except Exception as error:
            found[number] = error

    company.run([partial(run, *pair) for pair in enumerate(studies)])
    return found


class Reader:
    """Reads parts of a sequence in order; the list of what was computed is everybody's."""

    def __init__(self, name, parts, computed):
        self.name, self.parts, self.computed = name, parts, computed

    def __call__(self, company):
        return [
            company.once((self.name, part), lambda part=part: self._make(part), part) for part in self.parts
        ]

    def until_ended(self, company, started):
        for part in self.parts:
            company.once((self.name, part), started.set, part)

    def _make(self, part):
        self.computed.append((self.name, part))
        return f"{self.name}{part}"


def test_what_all_read_is_computed_once_and_in_order():
    computed = []
    found = together(*[Reader("a", range(5), computed)] * 4)
    assert found == [["a0", "a1", "a2", "a3", "a4"]] * 4
    assert computed == [("a", part) for part in range(5)]


def test_who_is_behind_catches_up_before_anybody_goes_on():
    computed = []
    together(Reader("a", range(3, 6), computed), Reader("a", range(6), computed))
    assert computed == [("a", part) for part in range(6)]


def test_readers_of_other_things_share_nothing():
    computed = []
    found = together(Reader("a", range(3), computed), Reader("b", range(3), computed))
    assert found == [["a0", "a1", "a2"], ["b0", "b1", "b2"]]
    assert sorted(computed) == [(name, part) for name in "ab" for part in range(3)]


def test_studies_take_turns():
    """And each until it asks for something, with nothing of torch's that another has set."""
    turns = []

    def study(name, context):
        def take_turns(company):
            with context():
                for part in range(3):
                    company.once(("own", name, part), lambda: None, part)
                    set_here = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
                    turns.extend([(name, *set_here, torch.is_autocast_enabled("cpu"))] * 2)

        return take_turns

    together(
        study("trains", nullcontext),
        study("looks", torch.no_grad),
        study("evaluates", torch.inference_mode),
        study("halves", lambda: torch.autocast("cpu", torch.bfloat16, cache_enabled=False)),
    )
    assert turns[::2] == turns[1::2]
    assert Counter(turns[::2]) == {
        ("trains", True, False, False): 3,
        ("looks", False, False, False): 3,
        ("evaluates", False, True, False): 3,
        ("halves", True, False, True): 3,
    }
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert not torch.is_autocast_enabled("cpu")


def test_random_numbers_are_those_of_a_study_alone():
    def study(seed):
        def draw(company):
            torch.manual_seed(seed)
            np.random.seed(seed)
            drawn = []
            for part in range(4):
                company.once(("shared", part), lambda: None, part)
                drawn.append((float(torch.rand(1)), np.random.rand()))
            return drawn

        return draw

    found = together(study(0), study(1), study(0))
    alone = [together(study(seed))[0] for seed in (0, 1, 0)]
    assert found == alone
    assert found[0] == found[2] != found[1]


def test_a_study_that_fails_ends_no_other():
    computed = []

    def failing(company):
        company.once(("a", 0), lambda: computed.append(("a", 0)) or "a0", 0)
        raise ValueError("diverged")

    found = together(failing, Reader("a", range(3), computed))
    assert isinstance(found[0], ValueError)
    assert found[1][1:] == ["a1", "a2"]


def test_who_waits_for_what_another_makes_lets_it_go_on():
    made = []

    def maker(company):
        for part in range(5):
            company.once(("a", part), lambda: None, part)
        made.append("there")
        return company.once(("a", 5), lambda: "on", 5)

    def waiter(company):
        company.wait_for(lambda: bool(made))
        return "had it"

    assert together(waiter, maker, waiter) == ["had it", "on", "had it"]


def test_who_waits_before_any_study_runs_looks_again_and_ends_when_all_do():
    """As for tokens that another process is making: each study reads them when it is prepared."""
    company, looks = Together(ThreadPoolExecutor(1)), []
    company.wait_for(lambda: len(looks) > 2 or bool(looks.append(0)))
    assert len(looks) == 3
    company.end(SystemExit(143))
    with pytest.raises(SystemExit):
        company.wait_for(lambda: False)


def test_what_is_done_aside_keeps_no_other_from_its_turn():
    begun, had_turn, order = threading.Event(), threading.Event(), []

    def writer(company):
        torch.manual_seed(1)
        torch.rand(3)

        def write():
            begun.set()
            assert had_turn.wait(20)
            order.append("written")
            return "page"

        return company.aside(write), torch.rand(1).item()

    def reader(company):
        company.once("a", lambda: 1)
        assert begun.wait(20)
        torch.manual_seed(7)
        had_turn.set()
        order.append("read")
        company.once("b", lambda: 2, place=1)
        return "on"

    torch.manual_seed(1)
    expected = torch.rand(4)[3].item()
    assert together(writer, reader) == [("page", expected), "on"]
    assert order == ["read", "written"]


def test_an_error_aside_is_the_studys_own():
    def fails(company):
        return company.aside(lambda: 1 / 0)

    def goes_on(company):
        return company.once("a", lambda: 1)

    failed, found = together(fails, goes_on)
    assert isinstance(failed, ZeroDivisionError)
    assert found == 1


def test_what_is_kept_is_made_once():
    made = []

    def study(company):
        return company.kept("model", lambda: made.append(1) or object())

    found = together(study, study)
    assert found[0] is found[1]
    assert made == [1]


def test_an_end_reaches_every_study():
    company, found, started = Together(ThreadPoolExecutor(1)), [], threading.Event()

    def study():
        with pytest.raises(SystemExit):
            Reader("a", range(10**9), []).until_ended(company, started)
        found.append("ended")

    thread = threading.Thread(target=company.run, args=([study] * 3,), daemon=True)
    thread.start()
    assert started.wait(30)
    company.end(SystemExit(143))
    thread.join(30)
    assert found == ["ended"] * 3


def test_an_error_that_a_study_does_not_keep_to_itself_ends_no_other(caplog):
    def fails():
        raise OSError("No space left on device")

    company, found = Together(ThreadPoolExecutor(1)), []
    company.run([fails, lambda: found.append(company.once("a", lambda: 1))])
    assert found == [1]
    assert "No space left on device" in caplog.text


def test_alone_everything_is_computed_at_once():
    assert ALONE.once("key", lambda: 1) == ALONE.kept("key", lambda: 1) == ALONE.aside(lambda: 1) == 1
    attempts = iter([False, True])
    ALONE.wait_for(lambda: next(attempts))
    assert next(attempts, None) is None


def test_what_depends_on_a_content_is_computed_once_for_each():
    computed = []

    def study(company):
        return [
            company.once_of(
                "sum", torch.tensor(numbers), lambda n=numbers: computed.append(n) or sum(n), place
            )
            for place, numbers in enumerate(([1, 2], [3, 4], [1, 2]))
        ]

    assert together(study, study) == [[3, 7, 3]] * 2
    assert computed == [[1, 2], [3, 4], [1, 2]]  # nothing is kept longer than until all have it
    assert study(ALONE) == [3, 7, 3]
