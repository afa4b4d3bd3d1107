"""A SLURM of one node on this machine, with daemons and files of its own."""

import os
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
"""


def why_not() -> str | None:
    """Why no cluster can be started here, if none can."""
    missing = [name for name in DAEMONS if not _path(name)]
    if missing:
        return f"no {', '.join(missing)}; on Debian: apt-get install slurm-wlm munge"
    return None if os.geteuid() == 0 else "SLURM's daemons are started by root"


class Cluster:
    """Two processors in one partition; commands find it by SLURM_CONF.

    Args:
        folder: of a short name, because a socket lies in it.
    """

    def __init__(self, folder: Path):
        self.configuration = folder / "slurm.conf"
        self._environment = os.environ | {"SLURM_CONF": str(self.configuration)}
        host = socket.gethostname().partition(".")[0]
        ports = {"controller_port": _free_port(), "node_port": _free_port()}
        self.configuration.write_text(CONFIGURATION.format(folder=folder, host=host, **ports))
        for name in ("state", "spool"):
            (folder / name).mkdir()
        self._daemons: list[subprocess.Popen] = []
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        files = {"key-file": key, "socket": "munge.socket", "pid-file": "munge.pid", "log-file": "munge.log"}
        options = [
            f"--{name}={folder / file}" for name, file in (files | {"seed-file": "munge.seed"}).items()
        ]
        self._start("munged", "--foreground", "--force", *options)
        self._wait_for((folder / "munge.socket").exists)
        self._start("slurmctld", "-D")
        self._start("slurmd", "-D")
        self._wait_for(lambda: "idle" in self.ask("sinfo", "-h", "-o", "%T"))

    def ask(self, *command: str) -> str:
        """What one of SLURM's commands prints."""
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=60)
        return done.stdout

    def stop(self) -> None:
        """Cancel what is left, and end the daemons."""
        self.ask("scancel", "--user=root")
        self._wait_for(lambda: not self.ask("squeue", "-h"))
        for daemon in reversed(self._daemons):
            daemon.terminate()
            daemon.wait(30)

    def _start(self, name: str, *options: str) -> None:
        command = [_path(name) or name, *options]
        log = self.configuration.with_name(f"{name}.out").open("w")
        self._daemons.append(subprocess.Popen(command, env=self._environment, stdout=log, stderr=log))

    def _wait_for(self, happened) -> None:
        deadline = time.monotonic() + 60
        while not happened():
            assert time.monotonic() < deadline, f"see the logs in {self.configuration.parent}"
            time.sleep(0.2)


def _path(daemon: str) -> str | None:
    return shutil.which(daemon, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]
