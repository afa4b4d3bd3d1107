"""How faithful is a sparse autoencoder, and do feature interactions explain what it misses?

import sae_nfm

result = sae_nfm.study(["experiment=quickstart"], folder="runs/first")  # as `python -m sae_nfm` does
dictionary = sae_nfm.load("runs/first")  # or an artifact, or a published SAE
dictionary.kl("Once upon a time", condition="sae")  # nats/token
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sae_nfm.api import CONDITIONS as CONDITIONS
    from sae_nfm.api import Dictionary as Dictionary
    from sae_nfm.api import load as load
    from sae_nfm.api import study as study

__version__ = "0.1.0"
__all__ = ["CONDITIONS", "Dictionary", "load", "study"]


def __getattr__(name: str) -> Any:
    """Import torch and all that follows when it is first asked for: a command that waits needs none of it."""
    if name in __all__:
        from sae_nfm import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
