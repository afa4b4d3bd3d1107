"""Plain torch modules: normaliser, SAE, NFM, and what they are held against."""
