"""Tab completion in bash, for the installed command and for the module."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "completion.bash"
PRESS_TAB = """
source {script}
COMP_LINE='{line}' COMP_POINT={point} COMP_WORDS=({line}) COMP_CWORD={last} COMPREPLY=()
$(complete -p {command} | sed 's/.*-F \\([^ ]*\\).*/\\1/')
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize("command", ["sae-nfm", "python -m sae_nfm"])
def test_options_and_keys_are_completed(command, tmp_path):
    line = f"{command} nfm=full debug="
    press = PRESS_TAB.format(
        script=SCRIPT, line=line, point=len(line), last=len(line.split()) - 1, command=command.split()[0]
    )
    done = subprocess.run(
        ["bash", "-c", press],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    found = set(done.stdout.split())
    assert {"debug=default", "debug=fdr", "debug=overfit", "debug=profile"} == found, done.stderr


def test_the_help_says_how(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "sae_nfm", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert 'eval "$(sae-nfm -sc install=bash)"' in done.stdout
