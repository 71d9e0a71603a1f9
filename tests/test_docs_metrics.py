"""docs/metrics.md, the dashboard and the alert rules, held to the code in both directions."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloud_sync.runtime.kinds import BROKER_KINDS, COLLECT_KINDS, SERVE_KINDS
from cloud_sync.runtime.metric_tables import COLLECT_METRICS, SERVE_METRICS
from edge.runtime.kinds import EDGE_KINDS, UPLINK_KINDS
from edge.runtime.node_metrics import NODE_METRICS
from firmware_bridge import logline, metric
from firmware_bridge.logline import OWN_KINDS
from firmware_bridge.metric import Metric, table
from provisioning.runtime.ca_metrics import CA_METRICS
from provisioning.runtime.kinds import CA_KINDS

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = (DOCS / "metrics.md").read_text("utf-8")
TABLES = (NODE_METRICS, COLLECT_METRICS, SERVE_METRICS, CA_METRICS)
METRICS = {name: found for table_ in TABLES for name, found in table_.items()}
KINDS = (OWN_KINDS, EDGE_KINDS, UPLINK_KINDS, COLLECT_KINDS, BROKER_KINDS, SERVE_KINDS, CA_KINDS)
ALERTS: dict[str, Any] = yaml.safe_load((DOCS / "prometheus" / "alerts.yml").read_text("utf-8"))
SCRAPE: dict[str, Any] = yaml.safe_load((DOCS / "prometheus" / "scrape.yml").read_text("utf-8"))
DASHBOARD: dict[str, Any] = json.loads((DOCS / "grafana" / "holdfast.json").read_text("utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def series(found: Metric) -> set[str]:
    """The names that a query may use."""
    if found.type == "histogram":
        return {f"{found.name}_{part}" for part in ("bucket", "sum", "count")}
    return {found.sample}


SERIES = {name: found for found in METRICS.values() for name in series(found)}


def queries() -> Iterator[tuple[str, str]]:
    """(where it stands, the query) of every alert and panel."""
    for group in ALERTS["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    for panel in PANELS:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$node", ".*")


# --- the page ---------------------------------------------------------------------------------------------


def test_the_page_has_every_metric_as_it_is_and_no_other() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| `holdfast_")]
    assert rows == [row for table_ in TABLES for row in metric.markdown(table_.values())[2:]]


def test_the_page_has_every_kind_of_line_and_every_field_and_no_other() -> None:
    rows = [
        line
        for line in PAGE.splitlines()
        if re.match(r"\| `(?!holdfast_)\w+` \| (debug|info|warning|error) ", line)
    ]
    assert rows == [row for table_ in KINDS for row in logline.markdown(table_.values())[2:]]
    fields = [line for line in PAGE.splitlines() if line.startswith("| `HOLDFAST_")]
    assert fields == logline.fields_markdown()[2:]


def test_names_in_the_text_of_the_page_exist() -> None:
    for name in re.findall(r"holdfast_(?:node|collect|serve|ca)_\w+", PAGE):
        assert name in SERIES or name in METRICS, name
    for kind in re.findall(r"HOLDFAST_KIND=(\w+)", PAGE):
        assert any(kind in table_ for table_ in KINDS), kind


def test_a_metric_keeps_to_the_rules() -> None:
    assert len(METRICS) == sum(map(len, TABLES))
    for found in METRICS.values():
        assert found.meaning.endswith(".") and (found.bad == "-" or found.bad.endswith("."))
        assert "|" not in found.meaning + found.bad
        for name in re.findall(r"`(holdfast_\w+)`", found.meaning + found.bad):
            assert name in SERIES or name in METRICS, name


@pytest.mark.parametrize(
    "bad",
    [
        Metric("other_thing", "gauge", "m", "-"),
        Metric("holdfast_Thing", "gauge", "m", "-"),
        Metric("holdfast_things_total", "counter", "m", "-"),
        Metric("holdfast_wait", "gauge", "m", "-", unit="seconds"),
        Metric("holdfast_wait_ms", "gauge", "m", "-", unit="ms"),
        Metric("holdfast_wait", "histogram", "m", "-"),
        Metric("holdfast_wait", "gauge", "m", "-", buckets=(1.0,)),
        Metric("holdfast_wait", "gauge", "", "-"),
    ],
)
def test_a_metric_that_does_not_is_refused(bad: Metric) -> None:
    with pytest.raises(ValueError):
        table(bad)


def test_a_metric_stands_once() -> None:
    with pytest.raises(ValueError, match="twice"):
        table(Metric("holdfast_a", "gauge", "m", "-"), Metric("holdfast_a", "gauge", "n", "-"))


# --- queries ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("where", "query"), sorted(set(queries())))
def test_a_query_uses_what_exists(where: str, query: str) -> None:
    used = re.findall(r"holdfast_\w+", query)
    jobs = re.findall(r'\bup\{job=~?"([^"]+)"\}', query)  # Prometheus' own: does a target answer
    assert used or jobs, f"{where}: no metric of ours"
    scraped = [config["job_name"] for config in SCRAPE["scrape_configs"]]
    for job in jobs:
        assert any(re.fullmatch(job, name) for name in scraped), f"{where}: {job}"
    for name in used:
        assert name in SERIES, f"{where}: {name}"
    for name, matchers in re.findall(r"(holdfast_\w+)\{([^}]*)\}", query):
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
        assert labels <= {*SERIES[name].labels, "instance"}, f"{where}: {name} has no {labels}"
    grouped = {label for group in re.findall(r"by \(([^)]*)\)", query) for label in re.split(r",\s*", group)}
    known = {label for name in used for label in SERIES[name].labels}
    assert grouped <= known | {"instance", "le"}, f"{where}: {grouped - known}"


@pytest.mark.parametrize(("where", "query"), sorted(set(queries())))
def test_a_query_is_promql(where: str, query: str) -> None:
    parser = pytest.importorskip("promql_parser")
    assert parser.parse(query) is not None, where


def test_counters_are_asked_for_their_rate_and_gauges_are_not() -> None:
    for where, query in queries():
        for name in re.findall(r"holdfast_\w+", query):
            rated = re.search(rf"\b(rate|increase)\({name}\b", query) is not None
            if SERIES[name].type in ("counter", "histogram"):
                assert rated, f"{where}: {name} without rate or increase"
            elif where != "HoldfastDeliveriesDead":  # rows of a state: it only grows until a year has passed
                assert not rated, f"{where}: a rate of the gauge {name}"


# --- alert rules --------------------------------------------------------------------------------------------

RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_a_rule_says_what_happened_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"].keys() == {"severity"} and rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"].keys() == {"summary", "next"}
    assert all(20 < len(text) < 250 for text in rule["annotations"].values())
    assert re.fullmatch(r"Holdfast[A-Za-z]+", rule["alert"])
    assert re.fullmatch(r"\d+[mhd]", rule.get("for", "5m"))
    labels = {label for name in re.findall(r"holdfast_\w+", rule["expr"]) for label in SERIES[name].labels}
    said = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
    labels |= {"job"} if re.search(r"\bup\{", rule["expr"]) else set()
    assert said <= labels | {"instance"}, "a label that the alert does not have"
    for kind in re.findall(r"HOLDFAST_KIND=(\w+)", str(rule["annotations"])):
        assert any(kind in table_ for table_ in KINDS), kind


def test_what_the_work_needs_has_an_alert() -> None:
    names = {rule["alert"] for rule in RULES}
    assert len(names) == len(RULES)
    assert names >= {
        "HoldfastNodeDown", "HoldfastDevicesSilent", "HoldfastOutboxGrowing", "HoldfastNodeCertificateEnds",
        "HoldfastCheckpointOld", "HoldfastQuarantineRising", "HoldfastDeliveriesDead", "HoldfastNodeDiskLow",
        "HoldfastNodeClockWrong",
    }  # fmt: skip


CASES = """
rule_files: [{rules}]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {{series: 'holdfast_node_up{{instance="car-1"}}', values: '1x10 0x30'}}
      - {{series: 'holdfast_node_certificate_days{{instance="car-1",purpose="tls"}}', values: '13x120'}}
      - {{series: 'holdfast_node_certificate_days{{instance="car-1",purpose="event"}}', values: '60x120'}}
      - {{series: 'holdfast_node_disk_free_bytes{{instance="car-1"}}', values: '1000000x120'}}
      - {{series: 'holdfast_node_time_seconds{{instance="car-1"}}', values: '0x120'}}
      - {{series: 'holdfast_collect_checkpoint_age_seconds{{instance="c"}}', values: '0+60x120'}}
      - {{series: 'holdfast_collect_pending{{instance="c"}}', values: '0x60 5x60'}}
      - {{series: 'holdfast_collect_quarantined_total{{instance="c",reason="malformed"}}', values: '0+1x120'}}
      - {{series: 'holdfast_serve_deliveries{{instance="s",state="dead"}}', values: '0x60 1x60'}}
      - {{series: 'holdfast_collect_devices{{instance="c",heard="7d"}}', values: '0x30 2x90'}}
    alert_rule_test:
      - {{alertname: HoldfastNodeDown, eval_time: 9m}}
      - alertname: HoldfastNodeDown
        eval_time: 20m
        exp_alerts:
          - exp_labels: {{instance: car-1, severity: page}}
            exp_annotations:
              summary: The edge of car-1 does not answer
              next: "On the node: systemctl status holdfast-edge, then holdfast doctor"
      - alertname: HoldfastNodeCertificateEnds
        eval_time: 61m
        exp_alerts:
          - exp_labels: {{instance: car-1, purpose: tls, severity: page}}
            exp_annotations:
              summary: The tls certificate of car-1 ends in 13 days
              next: "On the node: holdfast provision renew; then see why holdfast-renew.timer did not do it"
      - {{alertname: HoldfastCheckpointOld, eval_time: 59m}}
      - alertname: HoldfastCheckpointOld
        eval_time: 70m
        exp_alerts:
          - exp_labels: {{instance: c, severity: page}}
            exp_annotations:
              summary: Nothing was put into the log for 1h 10m 0s though entries wait
              next: >-
                No receipts are given: see the collector's journal; a full disk or another writer holds the
                store
    promql_expr_test:
      - expr: count(ALERTS{{alertstate="firing"}}) by (alertname)
        eval_time: 100m
        exp_samples:
          - {{labels: '{{alertname="HoldfastNodeCertificateEnds"}}', value: 1}}
          - {{labels: '{{alertname="HoldfastNodeDiskLow"}}', value: 1}}
          - {{labels: '{{alertname="HoldfastNodeClockWrong"}}', value: 1}}
          - {{labels: '{{alertname="HoldfastCheckpointOld"}}', value: 1}}
          - {{labels: '{{alertname="HoldfastQuarantineRising"}}', value: 1}}
          - {{labels: '{{alertname="HoldfastDeliveriesDead"}}', value: 1}}
          - {{labels: '{{alertname="HoldfastDevicesSilent"}}', value: 1}}
"""


def promtool(*args: object) -> subprocess.CompletedProcess[str]:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    return subprocess.run([found, *map(str, args)], capture_output=True, text=True, check=False, timeout=120)


def test_prometheus_itself_takes_rules_and_configuration() -> None:
    for args in (
        ("check", "rules", DOCS / "prometheus/alerts.yml"),
        ("check", "config", DOCS / "prometheus/scrape.yml"),
    ):
        done = promtool(*args)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_fire_when_they_should_and_not_before(tmp_path: Path) -> None:
    cases = tmp_path / "cases.yml"
    cases.write_text(CASES.format(rules=DOCS / "prometheus" / "alerts.yml"), "utf-8")
    done = promtool("test", "rules", cases)
    assert done.returncode == 0, done.stdout + done.stderr


# --- the dashboard ------------------------------------------------------------------------------------------


def test_the_dashboard_can_be_imported() -> None:
    assert (
        DASHBOARD["title"] == "Holdfast"
        and DASHBOARD["uid"] == "holdfast"
        and DASHBOARD["schemaVersion"] >= 36
    )
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    assert {one["name"] for one in DASHBOARD["templating"]["list"]} == {"datasource", "node"}
    for panel in PANELS:
        assert panel["type"] in ("stat", "timeseries") and panel["title"] and len(panel["description"]) > 10
        assert panel["datasource"]["uid"] == "${datasource}"
        references = [target["refId"] for target in panel["targets"]]
        assert references and len(set(references)) == len(references)
        for target in panel["targets"]:
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            labels = {
                la for name in re.findall(r"holdfast_\w+", target["expr"]) for la in SERIES[name].labels
            }
            assert shown <= labels, f"{panel['title']}: {shown - labels}"


def test_no_panel_lies_on_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_part_of_the_work_has_its_row() -> None:
    rows = {panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"}
    assert rows == {
        "Fleet health",
        "Intake",
        "Log",
        "Telling and the page",
        "Enrolment",
        "Node health: $node",
    }
