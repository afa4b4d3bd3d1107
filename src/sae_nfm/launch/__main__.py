"""The process of several jobs: `python -m sae_nfm.launch`, for the launcher alone."""

from sae_nfm.launch.group import main

main()
