"""From a command to studies: errors, jobs, sweeps."""
