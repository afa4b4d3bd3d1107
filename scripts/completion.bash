# Tab completion of groups, options and keys, for both ways to start a study:
#   source scripts/completion.bash
# Hydra completes an installed command; `python -m sae_nfm` is handed to it as if it were `sae-nfm`.
eval "$(sae-nfm -sc install=bash)"

_python_m_sae_nfm() {
    if [[ $COMP_LINE == "python -m sae_nfm "* ]]; then
        COMP_LINE="sae-nfm ${COMP_LINE#python -m sae_nfm }"
        COMP_POINT=${#COMP_LINE}
        COMP_CWORD=$((COMP_CWORD - 2))
        hydra_bash_completion
    fi
}
complete -o nospace -o default -F _python_m_sae_nfm python
