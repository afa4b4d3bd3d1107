"""Everything that is made once and found again: what determines it, how it is made and loaded."""
