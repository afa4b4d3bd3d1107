"""A user's mistake as a few lines that name the setting, its value and what is allowed."""

import os
import signal
import sys
from collections.abc import Callable, Iterator

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from sae_nfm.processes import raise_when_terminated

MAX_LINES = 9


class NonFiniteLoss(RuntimeError):
    """The loss of a training became NaN or infinite."""


_OURS = (ValueError, NonFiniteLoss, FileNotFoundError)
_FOR_USERS = (ValueError, HydraException, OmegaConfBaseException, NonFiniteLoss, FileNotFoundError)


def told_briefly(main: Callable[[], None], config_dir: str) -> Callable[[], None]:
    """`main`, but a user's mistake ends it with a short message and exit status 1, and a signal with its own.

    With HYDRA_FULL_ERROR=1 in the environment the whole traceback of a mistake comes instead.
    """

    def run() -> None:
        raise_when_terminated()
        try:
            _run_briefly(main, config_dir)
        except (KeyboardInterrupt, SystemExit) as end:
            if number := _signal_behind(end):
                print(f"{number.name}: interrupted; the same command goes on from here", file=sys.stderr)
                sys.exit(128 + number)
            raise

    return run


def _run_briefly(main: Callable[[], None], config_dir: str) -> None:
    if os.environ.get("HYDRA_FULL_ERROR"):
        return main()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra prints its own version and exits
    try:
        main()
    except _FOR_USERS as error:
        sys.exit("error: " + explain(error, config_dir))


def _signal_behind(end: BaseException) -> signal.Signals | None:
    """The signal that ended the program, also where Lightning made an exit of status 0 or 1 of it."""
    for cause in _causes(end):
        if isinstance(cause, KeyboardInterrupt):
            return signal.SIGINT
        terminated = isinstance(cause, SystemExit) and cause.code == 128 + signal.SIGTERM
        if terminated or type(cause).__name__ == "SIGTERMException":
            return signal.SIGTERM
    return None


def explain(error: BaseException, config_dir: str) -> str:
    """The innermost cause that speaks of the user's settings, in at most `MAX_LINES` lines."""
    chain = list(_causes(error))
    for cause in chain:
        if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.full_key:
            return _unknown_key(cause.full_key, config_dir)
    for cause in reversed(chain):
        if isinstance(cause, _OURS) and not isinstance(cause, OmegaConfBaseException):
            return _short(str(cause))
    return _short(str(error))


def _short(message: str) -> str:
    return "\n".join([line for line in message.splitlines() if line.strip()][:MAX_LINES])


def _unknown_key(key: str, config_dir: str) -> str:
    value = next((part.partition("=")[2] for part in sys.argv if part.lstrip("+~").startswith(f"{key}=")), "")
    parent, _, name = key.rpartition(".")
    others = [part for part in sys.argv[1:] if "=" in part and not part.startswith((key, "hydra", "-"))]
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir, version_base="1.3"):
        node = compose("study", overrides=others)
    node = OmegaConf.select(node, parent) if parent else node
    allowed = (
        ", ".join(str(known) for known in node) if OmegaConf.is_dict(node) else "none: it has no settings"
    )
    return f"{key}={value}: there is no setting {name!r} here; allowed are {allowed}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
