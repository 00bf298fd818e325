"""A real SLURM cluster for tests: munged, slurmctld and some slurmd on this machine, with all files in one folder.

By hand: `python tests/integration/slurm_cluster.py FOLDER [NODES]` starts one, prints what a shell needs and ends it at
Ctrl-C. The packages are Debian's slurmctld, slurmd, slurm-client and munge.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import Popen

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "srun")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
_LONGEST_FOLDER = 60  # characters: the sockets of job steps lie in it, whose paths may have 107

CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
PlugStackConfig={folder}/plugstack.conf
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
PropagateResourceLimits=NONE
MpiDefault=none
ReturnToService=1
SlurmdTimeout=10
KillWait=10
MinJobAge=86400
MaxArraySize={array_size}
GresTypes=gpu
{nodes}
PartitionName=main Nodes=ALL Default=YES DefaultTime=60 MaxTime=INFINITE State=UP
"""
# The GPUs are devices that nobody opens.
NODE = (
    "NodeName=node{number} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=65536 Gres=gpu:2"
)
GPUS = "NodeName=node[1-{nodes}] Name=gpu File=/dev/null,/dev/zero\n"


def missing() -> list[str]:
    """The programs of SLURM that this machine lacks."""
    return [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]


class Cluster:
    """A running cluster; `variables` are what its clients need in their environment."""

    def __init__(self, folder: Path, *, nodes: int = 2, cpus: int = 2, array_size: int = 1001) -> None:
        assert len(str(folder)) <= _LONGEST_FOLDER, f"{folder} is too long a path for sockets"
        self.folder = folder
        self.nodes = [f"node{number}" for number in range(1, nodes + 1)]
        self.variables = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": PATH}
        self._daemons: dict[str, Popen[bytes]] = {}
        self._configure(cpus, array_size)

    def _configure(self, cpus: int, array_size: int) -> None:
        host = socket.gethostname().partition(".")[0]
        ports = _free_ports(len(self.nodes) + 1)
        lines = [
            NODE.format(number=number, host=host, port=ports[number], cpus=cpus)
            for number in range(1, len(self.nodes) + 1)
        ]
        for name in ("state", "spool", *(f"spool/{node}" for node in self.nodes)):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        settings = {"folder": self.folder, "host": host, "port": ports[0], "user": psutil.Process().username()}
        conf = CONF.format(**settings, array_size=array_size, nodes="\n".join(lines))
        (self.folder / "slurm.conf").write_text(conf)
        (self.folder / "gres.conf").write_text(GPUS.format(nodes=len(self.nodes)))
        (self.folder / "plugstack.conf").touch()
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(256))
        key.chmod(0o600)

    def start(self) -> None:
        """Start all daemons; return when every node is idle."""
        munge = self.folder / "munge"
        # --force: temporary folders are not open to everybody
        self._daemon(
            "munged", "--foreground", "--force", f"--socket={munge}.socket", f"--key-file={munge}.key",
            f"--pid-file={munge}.pid", f"--seed-file={munge}.seed", f"--log-file={munge}.log",
        )  # fmt: skip
        self._wait_for(lambda: Path(f"{munge}.socket").exists(), "munged")
        self._daemon("slurmctld", "-D")
        for node in self.nodes:
            self.start_node(node)
        self._wait_for(lambda: self.run("sinfo", "-h", "-t", "idle", "-o", "%D") == str(len(self.nodes)), "nodes")

    def stop(self) -> None:
        """Cancel all jobs, then end what was started, jobs' processes included."""
        if "slurmctld" in self._daemons:
            self.run("scancel", "--user", psutil.Process().username())
            deadline = time.monotonic() + 15
            while self.run("squeue", "-h") and time.monotonic() < deadline:
                time.sleep(0.2)
        for node in self.nodes:
            self._kill_steps(node)
        for process in reversed(self._daemons.values()):
            process.terminate()
        for process in self._daemons.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def start_node(self, node: str) -> None:
        """Start the daemon of a node."""
        self._daemon(node, "-D", "-N", node, program="slurmd")

    def end_daemon(self, node: str) -> None:
        """Kill a node's daemon alone: what runs on the node runs on, and SLURM gives it up for lost in a while."""
        self._daemons[node].kill()
        self._daemons[node].wait()

    def crash(self, node: str) -> None:
        """Kill a node's daemon and all that runs on the node, and tell SLURM."""
        self.end_daemon(node)
        self._kill_steps(node)
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=crashed")

    def recover(self, node: str) -> None:
        """Bring a crashed node back."""
        self.start_node(node)

        def is_back() -> bool:
            self.run("scontrol", "update", f"nodename={node}", "state=resume")  # what was set down stays down
            return self.run("sinfo", "-h", "-n", node, "-o", "%T") in ("idle", "mixed", "allocated")

        self._wait_for(is_back, node)

    def run(self, *command: str) -> str:
        """What a command of SLURM prints; nothing where it fails."""
        environment = os.environ | self.variables
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
        return done.stdout.strip()

    def jobs(self) -> dict[str, str]:
        """The state of every job, finished ones included, by its id (`3_0` is a task of an array)."""
        lines = self.run("squeue", "-h", "-r", "-t", "all", "-o", "%i %T").splitlines()
        return dict(line.split() for line in lines)

    def _daemon(self, name: str, *arguments: str, program: str | None = None) -> None:
        environment = {"PATH": PATH, "HOME": "/", "LANG": "C", "SLURM_CONF": self.variables["SLURM_CONF"]}
        executable = shutil.which(program or name, path=PATH)
        assert executable is not None, f"{program or name} is not installed"
        with open(self.folder / f"{name}.log", "ab") as log:
            self._daemons[name] = Popen(
                [executable, *arguments], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _wait_for(self, condition: Callable[[], bool], what: str, *, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            for name, process in self._daemons.items():
                assert process.poll() is None, f"{name} ended: {self._log(name)}"
            assert time.monotonic() < deadline, f"{what} did not come up: {self._log('slurmctld')}"
            time.sleep(0.1)

    def _log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace")[-2000:] if path.exists() else "no log"

    def _kill_steps(self, node: str) -> None:
        """Kill the jobs' processes on a node: the managers of its job steps, which hold sockets there, and what is
        below them.
        """
        spool = str(self.folder / "spool" / node) + "/"
        for process in psutil.process_iter():
            try:
                is_step = process.name() == "slurmstepd" and any(
                    str(connection.laddr).startswith(spool) for connection in process.net_connections("unix")
                )
                for one in [*process.children(recursive=True), process] if is_step else ():
                    one.kill()
            except psutil.NoSuchProcess:
                continue


def _free_ports(count: int) -> list[int]:
    """Ports in a row on which nobody listens, below those that systems give away."""
    while True:
        first = random.randrange(10000, 30000)
        ports = list(range(first, first + count))
        try:
            for port in ports:
                with socket.socket() as listener:
                    listener.bind(("127.0.0.1", port))
            return ports
        except OSError:
            continue


@contextmanager
def running(cluster: Cluster) -> Iterator[Cluster]:
    """A cluster that is ended whatever happens."""
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


if __name__ == "__main__":
    place = Path(sys.argv[1]).resolve()
    place.mkdir(parents=True, exist_ok=True)
    with running(Cluster(place, nodes=int(sys.argv[2]) if len(sys.argv) > 2 else 2)) as started:
        print(f"export SLURM_CONF={started.variables['SLURM_CONF']}", flush=True)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            signal.pause()
