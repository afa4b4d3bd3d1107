"""How a command ends that cannot go on: a mistake of the user's in a few lines, a bug in the log."""

import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from sae_nfm.measures.finite import NonFinite
from sae_nfm.settings.values import NotAllowed, unknown
from sae_nfm.store.files import CorruptedArtifact
from sae_nfm.store.processes import raise_when_terminated

MAX_LINES = 9
BRIEF = "SAE_NFM_BRIEF_ERRORS"  # says, to ranks too, that HYDRA_FULL_ERROR is ours and not the user's
log = logging.getLogger(__name__)


def told_briefly(main: Callable[[], None], config_dir: str) -> Callable[[], None]:
    """`main`, but what does not compose ends it in a few lines with exit status 1, and a signal with its own.

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
    if os.environ.get("HYDRA_FULL_ERROR") and BRIEF not in os.environ:
        return main()
    os.environ.update({"HYDRA_FULL_ERROR": "1", BRIEF: "1"})  # or Hydra prints its own version and exits
    try:
        main()
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        sys.exit(f"error: {explained(error, config_dir, sys.argv[1:])}")


@contextmanager
def errors_of_a_study() -> Iterator[None]:
    """Ends the command where a study fails, before Hydra has a word to say.

    A mistake of the user's is told in a few lines. The traceback of any other error goes to the log files,
    and the terminal is told where.
    """
    try:
        yield
    except Exception as error:
        if BRIEF not in os.environ:
            raise
        if isinstance(error, NotAllowed) and int(os.environ.get("LOCAL_RANK", 0)):
            sys.exit(1)  # the first rank has the same settings, and says so
        is_users = isinstance(error, NotAllowed | CorruptedArtifact | NonFinite)
        sys.exit(f"error: {error if is_users else _bug(error)}")


def _bug(error: Exception) -> str:
    """An error of the program in a line or two, once its traceback is kept."""
    trace = (type(error), error, error.__traceback__)
    record = log.makeRecord(log.name, logging.ERROR, __file__, 0, "the study failed", (), trace)
    handlers = [each for each in logging.getLogger().handlers if isinstance(each, logging.FileHandler)]
    files = [each for each in handlers if each.filter(record)]  # without those of others in this process
    if not files:
        raise error
    for file in files:
        file.handle(record)
    where = ", ".join(file.baseFilename for file in files)
    what = f"{type(error).__name__}: {_short(str(error))}".removesuffix(": ")
    return f"{what}\nno setting is known to cause it; the traceback is in {where}"


def _signal_behind(end: BaseException) -> signal.Signals | None:
    """The signal that ended the program, also where Lightning made an exit of status 0 or 1 of it."""
    for cause in _causes(end):
        if isinstance(cause, KeyboardInterrupt):
            return signal.SIGINT
        terminated = isinstance(cause, SystemExit) and cause.code == 128 + signal.SIGTERM
        if terminated or type(cause).__name__ == "SIGTERMException":
            return signal.SIGTERM
    return None


def explained(error: BaseException, config_dir: str, overrides: Sequence[str]) -> ValueError:
    """What does not compose, by key, value and what is allowed; in Hydra's words where it tells no more.

    Args:
        error: of Hydra or OmegaConf.
        config_dir: the config tree.
        overrides: what was to be composed, among which there may be flags.
    """
    for cause in _causes(error):
        if isinstance(cause, MissingConfigException) and cause.missing_cfg_file and cause.options:
            group, _, option = cause.missing_cfg_file.rpartition("/")
            return NotAllowed(group, option, sorted(cause.options))
        if isinstance(cause, OverrideParseException):
            return _unquoted(cause)
        if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.full_key:
            return _unknown_key(str(cause.full_key), config_dir, overrides)
    return ValueError(_short(str(error)))


def _short(message: str) -> str:
    return "\n".join([line for line in message.splitlines() if line.strip()][:MAX_LINES])


def _unquoted(error: OverrideParseException) -> NotAllowed:
    """Hydra's grammar, which gives many characters a meaning, and what to write instead."""
    key, _, value = error.override.partition("=")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    quoted = shlex.quote(f'{key}="{escaped}"')
    return NotAllowed(key, value, f"values with such characters in two pairs of quotes: {quoted}")


def _unknown_key(key: str, config_dir: str, overrides: Sequence[str]) -> NotAllowed:
    given = {part: part.lstrip("+~") for part in overrides if "=" in part}
    value = next((bare.partition("=")[2] for bare in given.values() if bare.startswith(f"{key}=")), "")
    others = [part for part, bare in given.items() if not bare.startswith((key, "hydra", "-"))]
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir, version_base="1.3"):
        node = _composed(others)
    parent = key.rpartition(".")[0]
    node = OmegaConf.select(node, parent) if parent else node
    known = [str(name) for name in node if not str(name).startswith("_")] if OmegaConf.is_dict(node) else []
    return unknown(key, value, known if parent else [*known, "experiment", "ablation", "sweep"])


def _composed(overrides: list[str]) -> DictConfig:
    """What there is beside the unknown key: with the other overrides, if they are right."""
    choices = [override for override in overrides if "." not in override.partition("=")[0]]
    for tried in (overrides, choices):  # of which another may be unknown too
        with suppress(HydraException):
            return compose("study", overrides=tried)
    return compose("study")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
