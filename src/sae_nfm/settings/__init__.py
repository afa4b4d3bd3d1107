"""What a setting may be, and the study's configuration."""
