"""What dictionaries are trained for, one file each."""
