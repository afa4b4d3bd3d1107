"""`python -m sae_nfm.attribute RUN [attribution=features] [attribution.nodes=16] [trainer=cpu]`."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from sae_nfm import progress
from sae_nfm.launch.attribution import attribute
from sae_nfm.launch.quiet import quiet
from sae_nfm.measures.finite import NonFinite
from sae_nfm.settings.values import NotAllowed
from sae_nfm.store.files import CorruptedArtifact
from sae_nfm.store.processes import end_without_looking_back


def main(arguments: Sequence[str] | None = None) -> int:
    """Say which pairs of latents a finished study's gain is due to.

    Returns:
        The exit status: 0, or 1 where it cannot be done, which is told in a few lines.
    """
    given = _parser().parse_args(arguments)
    level = logging.INFO
    if rank_zero_only.rank:
        level = logging.ERROR
        progress.silence()
    how = "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(level=level, format=how, datefmt="%H:%M:%S", handlers=[progress.Terminal()])
    try:
        with quiet():
            attribute(given.run, given.overrides)
    except (NotAllowed, NonFinite, CorruptedArtifact, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sae_nfm.attribute", description="Which interactions a study's gain is due to."
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished study")
    parser.add_argument("overrides", nargs="*", help="of attribution, trainer and artifacts, as in a study")
    return parser


if __name__ == "__main__":
    end_without_looking_back()
    sys.exit(main())
