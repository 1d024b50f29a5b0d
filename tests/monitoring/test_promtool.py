"""Prometheus' own tool on what is for Prometheus: `make monitoring`, which installs it."""

import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from swanroam.daemon.counts import Counts
from swanroam.daemon.exposition import Exposition, families
from swanroam.daemon.metrics import Reading

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RULES = ROOT / "packaging" / "prometheus" / "swanroam.rules.yml"
DASHBOARD = ROOT / "packaging" / "grafana" / "swanroam.json"


def promtool(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], input=text, capture_output=True, text=True, check=False)


def page() -> str:
    xfrm = {"XfrmOutPolBlock": 1}
    dropped, unsent = Counter(too_many=1), Counter(EPERM=1)
    peers = {"server": False}
    reading = Reading(Counts(), (), peers, 0, 0, dropped, unsent, {"AF_INET": 0}, xfrm, True, True, True, True)
    return Exposition(lambda: families(reading)).page("")[0].decode()


def test_the_rules_are_right() -> None:
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))

    assert done.returncode == 0, done.stdout + done.stderr
    assert "14 rules found" in done.stdout


def test_every_alert_fires_for_what_it_is_about_and_is_silent_otherwise() -> None:
    done = promtool("test", "rules", str(HERE / "swanroam.rules.test.yml"))
    assert done.returncode == 0, done.stdout + done.stderr

    alerts = {rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}
    stories: dict[str, Any] = yaml.safe_load((HERE / "swanroam.rules.test.yml").read_text())
    cases = [case for story in stories["tests"] for case in story["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == alerts
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == alerts


def test_a_rule_that_does_not_fire_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "packaging" / "prometheus").mkdir(parents=True)
    changed = RULES.read_text().replace("swanroam_charon_connected == 0", "swanroam_charon_connected == 2")
    (tmp_path / "packaging" / "prometheus" / RULES.name).write_text(changed)
    (tmp_path / "tests" / "monitoring").mkdir(parents=True)
    copy = tmp_path / "tests" / "monitoring" / "swanroam.rules.test.yml"
    copy.write_text((HERE / copy.name).read_text())

    done = promtool("test", "rules", str(copy))
    assert done.returncode != 0
    assert "SwanroamCharonLost" in done.stdout + done.stderr


def test_the_page_is_as_prometheus_wants_it() -> None:
    done = promtool("check", "metrics", text=page())

    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert promtool("check", "metrics", text="# TYPE thing counter\nthing 1\n").returncode != 0


def test_every_query_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    """As recording rules, with the variables of Grafana replaced."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    targets = [target for panel in panels for target in panel.get("targets", ())]
    queries = [target["expr"].replace("$__rate_interval", "5m") for target in targets]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))

    done = promtool("check", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(queries)} rules found" in done.stdout
    path.write_text(path.read_text().replace("sum by (", "sum by by (", 1))
    assert promtool("check", "rules", str(path)).returncode != 0
