"""How faithful is a sparse autoencoder, and do feature interactions explain what it misses?"""

__version__ = "0.1.0"
