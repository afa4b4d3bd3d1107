"""The studies that share a process: they take turns, and what several of them read is computed once."""

import random
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")
_PAUSE = 0.1  # seconds between two looks at what another process does


class Company:
    """The company of a study that has its process to itself: what it asks for is computed for it alone.

    `Together` is what several studies have.
    """

    def once(self, key: Hashable, compute: Callable[[], T], place: int = 0) -> T:
        """What `compute` gives, for whoever asks for it by the same key at about the same time.

        Args:
            key: says what it is, and on what it depends.
            compute: makes it; what it makes is not to be changed.
            place: how far on in a study it is asked for; who is behind is served first.
        """
        return compute()

    def once_of(self, what: Hashable, content: Tensor, compute: Callable[[], T], place: int = 0) -> T:
        """As `once`, for what depends on the content of a tensor, which is read where there is company."""
        return compute()

    def kept(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, the same for all as long as the process lives, such as a language model."""
        return make()

    def aside(self, act: Callable[..., T], *arguments: Any) -> T:
        """What an action gives that computes nothing of torch's, such as writing a page; others go on."""
        return act(*arguments)

    def wait_for(self, attempt: Callable[[], bool]) -> None:
        """Return as soon as an attempt succeeds; others go on meanwhile."""
        while not attempt():
            time.sleep(_PAUSE)


ALONE = Company()


class _Wish(NamedTuple):
    """What a study waits for."""

    key: Hashable | None
    """Of what it reads next; None where it begins, or waits for something outside."""
    place: int
    since: int
    """How many steps all had made when it last looked; negative where it begins."""


class Together(Company):
    """Studies in threads, of which one has its turn at a time, until it asks for something that is shared.

    All that read the same thing have it before anything else is computed, so that it is kept no longer than
    that, and studies that read the same sequence stay side by side. Who is behind goes first. Each study has
    its own random state.

    Args:
        members: how many there are; the first begins when all have come.
        forever: what is kept as long as the process lives, if there is more than one company in it.
        beside: does what is done aside; a thread, unless another is given.
    """

    def __init__(
        self, members: int, forever: dict[Hashable, Any] | None = None, beside: Executor | None = None
    ) -> None:
        self._missing = members
        self._lock, self._beside = threading.Lock(), beside or ThreadPoolExecutor(1)
        self._wishes: dict[int, _Wish] = {}
        self._events: dict[int, threading.Event] = {}
        self._turn: int | None = None
        self._steps = 0
        self._held: tuple[Hashable, Any] | None = None
        self._forever = {} if forever is None else forever
        self._end: BaseException | None = None

    @contextmanager
    def member(self) -> Iterator[None]:
        """Belong to the company, from this thread's first turn on; one that leaves gives its turn away."""
        try:
            self._await_turn(_Wish(None, -1, -1))
            yield
        finally:
            with self._lock:
                del self._events[threading.get_ident()]
                self._steps += 1
                self._give_away()

    def once(self, key: Hashable, compute: Callable[[], T], place: int = 0) -> T:
        """As `Company`: the first that asks computes, and the others are given the same."""
        self._await_turn(_Wish(key, place, self._steps))
        if self._held is None or self._held[0] != key:
            self._held = None  # let go of it before the next is made
            self._held = (key, compute())
        return self._held[1]

    def once_of(self, what: Hashable, content: Tensor, compute: Callable[[], T], place: int = 0) -> T:
        """As `Company`."""
        return self.once((what, content.cpu().numpy().tobytes()), compute, place)

    def kept(self, key: Hashable, make: Callable[[], T]) -> T:
        """As `Company`."""
        if key not in self._forever:
            self._forever[key] = make()
        return self._forever[key]

    def aside(self, act: Callable[..., T], *arguments: Any) -> T:
        """As `Company`, by whoever stands beside."""
        state = _random_state()
        with self._lock:
            self._steps += 1
            self._give_away()
        try:
            return self._beside.submit(act, *arguments).result()
        finally:
            self._await_turn(_Wish(None, -1, self._steps - 1))
            _set_random_state(state)

    def wait_for(self, attempt: Callable[[], bool]) -> None:
        """As `Company`: tried again whenever another study has come further."""
        while not attempt():
            self._await_turn(_Wish(None, -1, self._steps))

    def end(self, error: BaseException) -> None:
        """Have every study end with an error as soon as its next turn comes."""
        self._end = error

    def _await_turn(self, wish: _Wish) -> None:
        """Give the turn away, and come back with it; the study's random state is then what it was."""
        state, me = _random_state(), threading.get_ident()
        event = self._events.setdefault(me, threading.Event())
        with self._lock:
            self._wishes[me] = wish
            self._missing -= wish.since < 0
            if self._turn in (None, me) and not self._missing:
                self._give_away()
        event.wait()
        event.clear()
        _set_random_state(state)
        if self._end is not None:
            raise self._end

    def _give_away(self) -> None:
        """Let another have its turn, with the lock held."""
        self._turn = self._chosen()
        if self._turn is not None:
            wish = self._wishes.pop(self._turn)
            self._steps += wish.key is not None or wish.since < 0
            self._events[self._turn].set()

    def _chosen(self) -> int | None:
        """Whose turn it is; nobody's, where nobody waits."""
        held = self._held[0] if self._held else None
        reading = {who: wish for who, wish in self._wishes.items() if wish.key is not None}
        served = [who for who, wish in reading.items() if wish.key == held]
        others = [who for who, wish in self._wishes.items() if wish.key is None and wish.since < self._steps]
        if served or others:
            return (others or served)[0]
        if reading:
            return min(reading, key=lambda who: reading[who].place)
        if self._wishes:  # all of them wait for other processes
            time.sleep(_PAUSE)
        return next(iter(self._wishes), None)


def _random_state() -> tuple[Any, ...]:
    on_gpu = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    return torch.get_rng_state(), np.random.get_state(), random.getstate(), on_gpu


def _set_random_state(state: tuple[Any, ...]) -> None:
    on_cpu, of_numpy, of_python, on_gpu = state
    torch.set_rng_state(on_cpu)
    np.random.set_state(of_numpy)
    random.setstate(of_python)
    if on_gpu is not None:
        torch.cuda.set_rng_state(on_gpu)
