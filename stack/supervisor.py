"""The process manager (supervisord) of one installation: its configuration, its start, and a client for it."""

from __future__ import annotations

import base64
import configparser
import http.client
import json
import secrets
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from xmlrpc.client import Error, Fault, ServerProxy

import psutil
from supervisor.xmlrpc import Faults

from flight_delays.infra.files import write_private
from flight_delays.settings import LOOPBACK, Settings
from stack.services import Service, inherited_environment

LOG_BYTES = 5 * 1024 * 1024
STORES = ("kafka", "mongo")


class Supervisor:
    """The process manager of the installation under `settings.home`, found by what its start left there.

    So it is found whatever the settings of this command are, and its password goes to no other program.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.logs = settings.home / "logs"
        self._run = settings.home / "run"
        self._conf = self._run / "supervisord.conf"

    @property
    def _rpc(self) -> Any:
        parser = configparser.RawConfigParser()
        parser.read(self._conf, encoding="utf-8")
        server = parser["inet_http_server"]
        login = base64.b64encode(f"{server['username']}:{server['password']}".encode()).decode()
        headers = [("Authorization", f"Basic {login}")]  # not in the URL, which the errors show
        return ServerProxy(f"http://{server['port']}/RPC2", headers=headers, allow_none=True).supervisor

    def process(self) -> psutil.Process | None:
        """The process manager's process; None where it does not run."""
        with suppress(OSError, ValueError, IndexError, psutil.Error):
            found = psutil.Process(int((self._run / "supervisord.pid").read_text()))
            if Path(found.cwd(), found.cmdline()[-1]) == self._conf:  # after a reboot the number may be anybody's
                return found
        return None

    def running(self) -> bool:
        """Whether the process manager runs and answers. Raises RuntimeError where it runs and does not answer."""
        if (process := self.process()) is None:
            return False
        try:
            return bool(self._rpc.getState()["statename"] == "RUNNING")
        except ConnectionError:
            return False
        except (Error, OSError, http.client.HTTPException) as error:
            raise RuntimeError(f"the process manager (process {process.pid}) does not answer: {error}") from error

    def start(self, services: list[Service]) -> None:
        """Starts the process manager in the background, which starts the services with `autostart`."""
        self._run.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(parents=True, exist_ok=True)
        starts = {each.name: {"command": each.command, "environment": each.environment} for each in services}
        write_private(self._run / "services.json", json.dumps(starts))
        write_private(self._conf, self._configuration(services))
        command = [sys.executable, "-W", "ignore", "-m", "supervisor.supervisord", "-c", "supervisord.conf"]
        environment = inherited_environment() | self._settings.environment
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=self._run, env=environment, umask=0o077
        )
        if done.returncode != 0:
            raise RuntimeError(f"the process manager did not start: {(done.stderr or done.stdout).strip()}")
        deadline = time.monotonic() + 60
        while not self.running():
            if time.monotonic() > deadline:
                raise RuntimeError(f"the process manager does not answer; see {self._run / 'supervisord.log'}")
            time.sleep(0.1)

    def stop(self, keep: tuple[str, ...] = ()) -> None:
        """Stops all services but those to `keep`, and, where there are none, the process manager; waits for the end."""
        if (process := self.process()) is None:
            return
        # At once, where `shutdown` waits for one before it stops the next; then what the sink still writes into.
        for last in (False, True):
            group = [name for name in self.states() if (name in STORES) == last and name not in keep]
            for name in group:
                self.stop_service(name, wait=False)
            while any(self.states()[name]["pid"] for name in group):
                time.sleep(0.1)
        if keep:
            return
        self._rpc.shutdown()
        try:
            process.wait(timeout=90)
        except psutil.TimeoutExpired as error:
            raise RuntimeError(f"the process manager (process {process.pid}) did not stop within 90 s") from error

    def pid(self) -> int:
        """The process manager's own process."""
        return int(self._rpc.getPID())

    def states(self) -> dict[str, dict[str, Any]]:
        """What supervisord says of each process: `statename`, `pid`, `description` and more, by name."""
        return {info["name"]: info for info in self._rpc.getAllProcessInfo()}

    def start_service(self, name: str) -> bool:
        """Starts one service where it does not run yet; returns whether that was so."""
        if stopped := self.states()[name]["statename"] in ("STOPPED", "EXITED", "FATAL"):
            try:
                self._rpc.startProcess(name, False)
            except Fault as fault:
                if fault.faultCode != Faults.ALREADY_STARTED:  # by the process manager itself, since it was asked
                    raise
        return stopped

    def stop_service(self, name: str, *, wait: bool = True) -> None:
        """Stops one service and waits until it has ended."""
        if self.states()[name]["statename"] not in ("STOPPED", "STOPPING", "EXITED", "FATAL"):
            self._rpc.stopProcess(name, wait)

    def _configuration(self, services: list[Service]) -> str:
        # Without a path of the user's: what is relative is so to the folder in which the process manager runs.
        text = f"""
[supervisord]
logfile_maxbytes = {LOG_BYTES}
logfile_backups = 1
childlogdir = ../logs
identifier = flight-delays
umask = 077

[inet_http_server]
port = {LOOPBACK}:{self._settings.port_supervisor}
username = flights
password = {secrets.token_urlsafe(32)}

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""
        for service in services:
            text += f"""
[program:{service.name}]
command = {Path(sys.executable).name} -m stack.launch {service.name}
autostart = {str(service.autostart).lower()}
autorestart = true
startsecs = 2
startretries = 1000000
stopwaitsecs = {service.stop_seconds}
killasgroup = true
redirect_stderr = true
stdout_logfile = ../logs/{service.name}.log
stdout_logfile_maxbytes = {LOG_BYTES}
stdout_logfile_backups = 2
"""
        return text
