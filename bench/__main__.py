"""`make bench`: brings up a stack of its own, measures, takes it down, writes docs/benchmarks.md."""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

from bench import report
from bench.installation import Installation, installation, own_settings
from bench.measure import SECTIONS
from bench.results import QUICK, Plan, Results
from flight_delays.settings import PROJECT
from stack import artifacts


def main() -> None:
    """Runs the sections; one that fails is shown and does not stop the others. Exit status 1 where one failed."""
    options = _parser().parse_args()
    if options.render:
        report.write(Results.from_json(json.loads(options.render.read_text())), PROJECT / "docs")
        return
    begin = time.monotonic()
    results, failures = _measure(options, begin)
    results.minutes = (time.monotonic() - begin) / 60
    kept = Path(tempfile.gettempdir()) / "flights-bench-results.json"
    kept.write_text(json.dumps(asdict(results)))
    _say(begin, f"results kept in {kept}")
    if not options.only:
        output = PROJECT / "var" / "bench" if options.quick else PROJECT / "docs"
        output.mkdir(parents=True, exist_ok=True)
        report.write(results, output)
        _say(begin, f"wrote {(output / 'benchmarks.md').relative_to(PROJECT)}")
    _say(begin, f"done; failed: {', '.join(failures) or 'none'}")
    sys.exit(1 if failures else 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short trial of 5 minutes; writes to var/bench")
    parser.add_argument(
        "--only", choices=SECTIONS, action="append", help="one section (may be repeated); writes no report"
    )
    parser.add_argument(
        "--durations", type=int, nargs="+", metavar="SECONDS", help="real-time batch durations that are compared"
    )
    parser.add_argument("--render", type=Path, metavar="FILE", help="write the report of results kept in a file")
    return parser


def _measure(options: argparse.Namespace, begin: float) -> tuple[Results, list[str]]:
    # A fresh clone with a fresh virtual environment takes minutes of its own: the trial starts from this one.
    sections = options.only or [name for name in SECTIONS if not (options.quick and name == "startup")]
    home = Path(tempfile.mkdtemp(prefix="flights-bench-"))
    settings = own_settings(home / "var")
    artifacts.fetch(settings)
    results, failures = Results(machine=report.machine()), []
    plan = QUICK if options.quick else Plan()
    plan = replace(plan, durations=tuple(options.durations or plan.durations))
    try:
        with installation(settings, fresh_clone="startup" in sections) as inst:
            if "startup" not in sections:
                _say(begin, "make up")
                inst.up()
            for name in sections:
                _say(begin, name)
                failures += _run(name, inst, plan, results)
            _say(begin, "make down")
            inst.down()
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return results, failures


def _run(name: str, inst: Installation, plan: Plan, results: Results) -> list[str]:
    try:
        SECTIONS[name](inst, plan, results)
    except Exception:
        logging.exception("the section %s failed", name)
        results.add(f"Section {name}", "failed", met=False)
        return [name]
    return []


def _say(begin: float, text: str) -> None:
    minutes, seconds = divmod(int(time.monotonic() - begin), 60)
    print(f"[{minutes:2d}:{seconds:02d}] {text}", flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    main()
