"""SAEs in other tools' files: one file a format, written from the format and without the tool."""
