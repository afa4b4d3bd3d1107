"""`python -m sae_nfm.export RUN_OR_ARTIFACT --format FORMAT --out DIR [--push HUB_NAME]`."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from sae_nfm.interop import hub, sae_nfm
from sae_nfm.interop.about import about_published
from sae_nfm.interop.loading import load
from sae_nfm.interop.runs import dictionaries_of, nfm_of
from sae_nfm.interop.saving import WRITABLE, save
from sae_nfm.settings.values import NotAllowed
from sae_nfm.store.processes import end_without_looking_back


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the SAE of a study in another tool's format, in ours its NFM too.

    Returns:
        The exit status: 0, or 1 where it cannot be done, which is told in a line.
    """
    given = _parser().parse_args(arguments)
    try:
        for module in given.imports:
            importlib.import_module(module)
        for line in export(given.source, given.format, given.out):
            print(line)
        if given.push:
            print(hub.pushed(given.out, given.push))
    except (NotAllowed, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def export(source: str | Path, format: str, out: str | Path) -> list[str]:
    """Write the SAE of a run, of an artifact, or of any folder that can be loaded.

    Args:
        source: its folder.
        format: as of `save`.
        out: the folder to write.

    Returns:
        What was done, in lines.

    Raises:
        NotAllowed: there is nothing to export, or the format cannot hold it.
    """
    out, folders = Path(out), dictionaries_of(Path(source))
    published = load(folders.get("sae", source))
    save(published.autoencoder, published.node, out, format, about_published(published))
    lines = [*published.warnings, f"{published.family} SAE in the format of {format}: {out}"]
    nfm = nfm_of(folders, published)
    if nfm is None:
        return lines
    if format != sae_nfm.NAME:
        return [*lines, f"the NFM is left out, which only --format {sae_nfm.NAME} can hold"]
    model, config = sae_nfm.read_residual(nfm)
    sae_nfm.write(model, config, out / sae_nfm.NFM)
    return [*lines, f"its NFM: {out / sae_nfm.NFM}"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sae_nfm.export", description="An SAE for other tools.")
    parser.add_argument("source", metavar="RUN_OR_ARTIFACT", help="folder of a study, or of an SAE")
    parser.add_argument("--format", required=True, choices=[*WRITABLE, sae_nfm.NAME])
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the folder to write")
    parser.add_argument("--push", metavar="HUB_NAME", help="upload it to this repository of the hub too")
    parser.add_argument(
        *("--import", "-i"),
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module with a family of your own",
    )
    return parser


if __name__ == "__main__":
    end_without_looking_back()
    sys.exit(main())
