"""The public face: run a study, and look at what it made."""

from sae_nfm.api.dictionary import CONDITIONS as CONDITIONS
from sae_nfm.api.dictionary import Dictionary as Dictionary
from sae_nfm.api.loading import load as load
from sae_nfm.api.studies import study as study
