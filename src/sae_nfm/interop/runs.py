"""Where an SAE and its NFM lie, of a study's run or of an NFM alone."""

from collections.abc import Mapping
from pathlib import Path

from sae_nfm.interop.files import Settings
from sae_nfm.interop.published import Published
from sae_nfm.interop.sae_nfm import CONFIG, NFM
from sae_nfm.settings.values import NotAllowed

RESULT = "result.json"


def dictionaries_of(folder: Path) -> dict[str, Path]:
    """The folders of the `sae` and the `nfm` that a folder leads to.

    Args:
        folder: of a run, or of an NFM that is an artifact; of anything else there are none.

    Raises:
        NotAllowed: the result names no SAE, or what it names, or the SAE that the NFM is on, is not there.
    """
    return _of_a_run(folder) or _of_an_nfm(folder)


def nfm_of(folders: Mapping[str, Path], published: Published) -> Path | None:
    """The folder of the NFM on an SAE: among those of `dictionaries_of`, or below the SAE's, if anywhere."""
    folder = folders.get(NFM, published.files[0].parent / NFM)
    return folder if folder.is_dir() else None


def _of_a_run(run: Path) -> dict[str, Path]:
    if not (run / RESULT).is_file():
        return {}
    named = Settings(run / RESULT).need("artifacts", dict)
    above = (run / RESULT).resolve().parents
    found = {}
    for name in ("sae", NFM):
        if name in named:
            path = Path(named[name]["path"])  # relative to where the study was run, above its folder
            there = [base / path for base in (Path(), *above) if (base / path).is_dir()]
            if not there:
                raise NotAllowed(f"artifacts.{name}", path, "folders that are there", f"in {run / RESULT}")
            found[name] = there[0]
    if "sae" not in found:
        raise NotAllowed("artifacts", sorted(named), "results that name an sae", f"in {run / RESULT}")
    return found


def _of_an_nfm(folder: Path) -> dict[str, Path]:
    config = folder / CONFIG
    if not config.is_file() or "residual" not in (said := Settings(config)).all:
        return {}
    on, folder = str(said.under("on").get("sae", str)), folder.resolve()
    artifacts = folder.parents[1]
    for sae in (artifacts / "sae" / on, artifacts / "published" / on, folder.parent):
        if (sae / CONFIG).is_file():
            return {"sae": sae, NFM: folder}
    raise NotAllowed("path", folder, "NFMs beside the SAE that they are on", f"its SAE {on} is not there")
