"""Where learning curves and finished results go beside the run folder's own files."""
