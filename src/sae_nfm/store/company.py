"""The studies that share a process: they take turns, and what several of them read is computed once."""

import logging
import random
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from greenlet import getcurrent, greenlet
from torch import Tensor

log = logging.getLogger(__name__)
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
        """What `make` gives, the same for all as long as the company lives, such as a language model."""
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
    """Studies of one thread, of which one has its turn at a time, until it asks for something that is shared.

    All that read the same thing have it before anything else is computed, so that it is kept no longer than
    that, and studies that read the same sequence stay side by side. Who is behind goes first. Each study has
    its own random state. They are coroutines, and no threads: OpenMP would keep workers for every thread, and
    with more of them than cores have them sleep between any two operations.

    Args:
        beside: does what is done aside.
    """

    def __init__(self, beside: Executor) -> None:
        self._beside = beside
        self._wishes: dict[greenlet, _Wish] = {}
        self._steps = 0
        self._held: tuple[Hashable, Any] | None = None
        self._kept: dict[Hashable, Any] = {}
        self._end: BaseException | None = None

    def run(self, studies: Sequence[Callable[[], None]]) -> None:
        """Run studies side by side, each to its end; what one raises ends no other."""
        self._wishes = {greenlet(study): _Wish(None, -1, -1) for study in studies}
        before = _random_state()
        while self._wishes:
            chosen = self._chosen()
            wish = self._wishes.pop(chosen)
            self._steps += wish.key is not None or wish.since < 0
            if wish.since < 0:
                if self._end is not None:
                    continue
                _set_random_state(before)
            try:
                chosen.switch()
            except Exception:
                log.exception("a study ended")
        self._held = None

    def once(self, key: Hashable, compute: Callable[[], T], place: int = 0) -> T:
        """As `Company`: the first that asks computes, and the others are given the same."""
        self._wait(_Wish(key, place, self._steps))
        if self._held is None or self._held[0] != key:
            self._held = None  # let go of it before the next is made
            self._held = (key, compute())
        return self._held[1]

    def once_of(self, what: Hashable, content: Tensor, compute: Callable[[], T], place: int = 0) -> T:
        """As `Company`."""
        return self.once((what, content.cpu().numpy().tobytes()), compute, place)

    def kept(self, key: Hashable, make: Callable[[], T]) -> T:
        """As `Company`."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def aside(self, act: Callable[..., T], *arguments: Any) -> T:
        """As `Company`, by whoever stands beside."""
        done = self._beside.submit(act, *arguments)
        self.wait_for(done.done)
        return done.result()

    def wait_for(self, attempt: Callable[[], bool]) -> None:
        """As `Company`: tried again whenever another study has come further."""
        while not attempt():
            self._wait(_Wish(None, -1, self._steps))

    def end(self, error: BaseException) -> None:
        """Have every study end with an error as soon as its next turn comes."""
        self._end = error

    def _wait(self, wish: _Wish) -> None:
        """Give the turn away, and come back with it, torch and chance in the state that they were in."""
        me = getcurrent()
        if me.parent is None:  # a study that is being prepared, when none runs yet
            time.sleep(_PAUSE)
        else:
            self._wishes[me] = wish
            state = _random_state()
            with _as_at_the_start():
                me.parent.switch()
            _set_random_state(state)
        if self._end is not None:
            raise self._end

    def _chosen(self) -> greenlet:
        """Whose turn it is."""
        held = self._held[0] if self._held else None
        reading = {who: wish for who, wish in self._wishes.items() if wish.key is not None}
        served = [who for who, wish in reading.items() if wish.key == held]
        others = [who for who, wish in self._wishes.items() if wish.key is None and wish.since < self._steps]
        if served or others:
            return (others or served)[0]
        if reading:
            return min(reading, key=lambda who: reading[who].place)
        time.sleep(_PAUSE)  # all of them wait for something outside: let each look again
        self._steps += 1
        return next(iter(self._wishes))


@contextmanager
def _as_at_the_start() -> Iterator[None]:
    """What torch keeps for a thread, as it is where nothing has been set; and as it was, after that."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


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
