"""What a study would make, and what that would take: `plan=true`."""
