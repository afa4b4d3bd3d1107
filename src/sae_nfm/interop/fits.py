"""Whether a published SAE is one of the model and the site that it is to be used at."""

from sae_nfm.interop.published import Published
from sae_nfm.lm.site import Site
from sae_nfm.settings.values import NotAllowed


def check_fits(published: Published, d_model: int, site: Site) -> None:
    """Hold an SAE against the model and the site that it is to be used at.

    Raises:
        NotAllowed: it is of another width, or says that it is of another layer or hook.
    """
    weights = published.files[0]
    if published.sae.d_in != d_model:
        because = f"{weights} holds an SAE of width {published.sae.d_in}"
        raise NotAllowed("d_in", published.sae.d_in, f"{d_model}, the model's width", because)
    check_site(published, site)


def check_site(published: Published, site: Site) -> None:
    """Hold an SAE against the site that it is to be used at.

    Raises:
        NotAllowed: it says that it is of another layer or hook.
    """
    claims, weights = published.claims, published.files[0]
    for setting, given, said in (("layer", site.layer, claims.layer), ("hook", site.hook, claims.hook)):
        if said is not None and said != given:
            because = f"the files of {weights} say another {setting}"
            raise NotAllowed(setting, given, str(said), because)
