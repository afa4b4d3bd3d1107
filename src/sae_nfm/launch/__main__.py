"""The process of several jobs: `python -m sae_nfm.launch`, for the launcher alone."""

from sae_nfm.store.processes import end_with_parent

end_with_parent()  # before the imports, during which the launcher may find that there is nothing to do

from sae_nfm.launch.group import main  # noqa: E402

main()
