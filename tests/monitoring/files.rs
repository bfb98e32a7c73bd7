//! The dashboard, the alerts and the documentation name the metrics that the code has.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use regex::Regex;
use retell::metrics::{ALL, Kind};
use serde_json::Value;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
}

/// Returns the metrics that a text names. The series of a histogram have endings of their own.
fn named(text: &str) -> BTreeSet<String> {
    let histograms: Vec<_> = ALL.iter().filter(|metric| metric.kind == Kind::Histogram).collect();
    let pattern = Regex::new(r"\bretell_[a-z_]+").unwrap();
    let found = pattern.find_iter(text).map(|name| name.as_str().to_owned());
    let without_ending = |name: String| {
        let of = histograms.iter().find(|histogram| {
            ["_bucket", "_sum", "_count"].iter().any(|ending| name.strip_suffix(ending) == Some(histogram.name))
        });
        of.map_or(name, |histogram| histogram.name.to_owned())
    };
    found.map(without_ending).collect()
}

fn all() -> BTreeSet<String> {
    ALL.iter().map(|metric| metric.name.to_owned()).collect()
}

fn assert_known(file: &str) {
    let unknown: Vec<_> = named(&read(file)).difference(&all()).cloned().collect();
    assert!(unknown.is_empty(), "{file} names metrics that the code does not have: {unknown:?}");
}

/// Returns each rule of a rule file that begins with `key`: its name, and its text.
fn blocks(text: &str, key: &str) -> Vec<(String, String)> {
    let block = |text: &str| {
        let (name, rest) = text.split_once('\n').unwrap();
        (name.trim().to_owned(), rest.to_owned())
    };
    text.split(&format!("- {key}: ")).skip(1).map(block).collect()
}

#[test]
fn metric_names_say_their_unit_and_kind() {
    assert_eq!(all().len(), ALL.len(), "two metrics have one name");
    for metric in ALL {
        assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
        assert_eq!(metric.name.ends_with("_seconds"), metric.unit.starts_with("seconds"), "{}", metric.name);
        assert!(metric.question.ends_with('?') && !metric.labels.is_empty(), "{}", metric.name);
    }
}

#[test]
fn documentation_lists_every_metric() {
    let docs = read("src/metrics.rs");
    let table: Vec<_> = docs.lines().filter(|line| line.starts_with("//! | `retell_")).collect();
    let expected: Vec<_> = ALL
        .iter()
        .map(|metric| {
            let kind = format!("{:?}", metric.kind).to_lowercase();
            let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let (name, unit, question) = (metric.name, metric.unit, metric.question);
            format!("//! | `{name}` | {kind} | {unit} | {} | {question} |", labels.join(", "))
        })
        .collect();
    assert_eq!(table, expected);
}

#[test]
fn alerts_name_known_metrics_and_say_what_to_do() {
    assert_known("prometheus/alerts.yaml");
    let alerts = blocks(&read("prometheus/alerts.yaml"), "alert");
    assert!(alerts.len() >= 15, "{} alerts", alerts.len());
    for (alert, rule) in &alerts {
        for part in ["expr: ", "severity: ", "summary: ", "description: ", "action: "] {
            assert_eq!(rule.matches(part).count(), 1, "{alert} has no {part}");
        }
        assert!(!named(rule).is_empty(), "{alert} uses no metric");
    }
}

#[test]
fn each_alert_has_a_test_that_it_fires_and_is_resolved() {
    assert_known("prometheus/alerts_test.yaml");
    let tests = read("prometheus/alerts_test.yaml");
    let script = read("prometheus/fire.sh");
    for (alert, _) in blocks(&read("prometheus/alerts.yaml"), "alert") {
        let cases = Regex::new(&format!(r#"alertname="{alert}", .*\n.*\n *exp_samples:( \[\])?"#)).unwrap();
        let fires: Vec<_> = cases.captures_iter(&tests).map(|case| case.get(1).is_none()).collect();
        assert_eq!(fires, [false, true, false], "alerts_test.yaml: {alert} does not fire, fires, and is resolved");
        assert!(script.contains(&alert), "fire.sh does not plant the fault of {alert}");
    }
}

#[test]
fn dashboard_asks_questions_and_shows_every_metric() {
    assert_known("grafana/retell.json");
    let dashboard: Value = serde_json::from_str(&read("grafana/retell.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "two panels have one id");
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(title.ends_with('?'), "{title:?} is no question");
        let targets = panel["targets"].as_array().map_or(0, Vec::len);
        assert!(targets > 0 || panel["type"] == "row", "{title} shows nothing");
    }
    let missing: Vec<_> = all().difference(&named(&dashboard.to_string())).cloned().collect();
    assert!(missing.is_empty(), "no panel shows {missing:?}");
}

#[test]
fn monitoring_example_is_short_and_installs_the_recorder_first() {
    let example = read("examples/monitoring/src/main.rs");
    assert!(example.lines().count() <= 85, "{} lines", example.lines().count());
    let place = |text: &str| example.find(text).unwrap_or_else(|| panic!("the example does not say {text}"));
    assert!(place(".install()?") < place("SqliteStore::open"));
    for file in ["prometheus/prometheus.yaml", "compose.yaml"] {
        assert!(read(file).contains("9464") || file == "compose.yaml", "{file} does not scrape the example");
    }
}
