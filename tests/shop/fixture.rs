//! A test fixture: a file of orders, a place for the log, and the results of a run over them.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::orders::{LINES, generated_orders};
use crate::place::Place;
use crate::process::{Shop, run, shop, text};

/// The totals of a file of orders.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    customers: u64,
    orders: u64,
    units: u64,
    revenue: u64,
    months: BTreeMap<String, u64>,
    repeat: u64,
}

/// A folder with orders, and a place for the log.
pub(crate) struct Fixture {
    pub(crate) orders: PathBuf,
    place: Place,
    folder: TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with(&generated_orders(LINES))
    }

    pub(crate) fn with(orders: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        Self::within(Place::File(folder.path().join("shop.db")), orders, folder)
    }

    pub(crate) fn at(place: Place, orders: &str) -> Self {
        Self::within(place, orders, tempfile::tempdir().expect("a temporary folder can be made"))
    }

    fn within(place: Place, orders: &str, folder: TempDir) -> Self {
        let fixture = Self { orders: folder.path().join("orders.txt"), place, folder };
        fs::write(&fixture.orders, orders).expect("the folder is writable");
        fixture
    }

    /// Returns the file of the log.
    pub(crate) fn db(&self) -> &Path {
        match &self.place {
            Place::File(path) => path,
            _ => panic!("the log is on a server"),
        }
    }

    /// Writes a file next to the orders. A concurrent reader of an existing file sees the old text or the new one,
    /// never a part of it.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let (path, new) = (self.folder.path().join(name), self.folder.path().join("new"));
        fs::write(&new, text).expect("the folder is writable");
        fs::rename(&new, &path).expect("the folder is writable");
        path
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(shop());
        command.arg("--orders").arg(&self.orders).args(self.place.arguments()).args(arguments);
        command
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Shop {
        run(self.command(arguments).arg("--json"))
    }

    /// Runs to the end and returns the text report.
    pub(crate) fn text_report(&self, arguments: &[&str]) -> String {
        let output = run(&mut self.command(arguments)).output();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Runs to the end and returns the JSON report.
    pub(crate) fn report(&self, arguments: &[&str]) -> Value {
        let output = self.start(arguments).output();
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("the report is JSON")
    }

    /// Runs to the end and returns the totals of the read models.
    pub(crate) fn sell(&self, arguments: &[&str]) -> Sums {
        let report = self.report(arguments);
        let number = |field: &str| report[field].as_u64().unwrap_or_else(|| panic!("no number {field}: {report}"));
        let months = report["revenue_by_month"].as_object().expect("months are an object");
        Sums {
            customers: number("customers"),
            orders: number("orders"),
            units: number("units"),
            revenue: number("revenue_cents"),
            months: months.iter().map(|(month, cents)| (month.clone(), cents.as_u64().unwrap_or(u64::MAX))).collect(),
            repeat: number("repeat_customers"),
        }
    }

    /// Starts a run and waits until the log has `events` events or the run has ended.
    pub(crate) fn start_and_await(&self, events: u64) -> Shop {
        let mut shop = self.start(&[]);
        self.await_events(&mut shop, events);
        shop
    }

    /// Waits until the log has `events` events or the process has ended.
    pub(crate) fn await_events(&self, shop: &mut Shop, events: u64) {
        while shop.is_running() && self.count_events() < events {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Starts a run and kills it once the log has `events` events.
    pub(crate) fn kill_at(&self, events: u64) {
        self.start_and_await(events).kill();
    }

    pub(crate) fn count_events(&self) -> u64 {
        self.place.count_events()
    }

    #[track_caller]
    pub(crate) fn assert_refused(&self, line: u32, problem: &str) {
        let output = self.start(&[]).output();
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains(&format!("orders.txt, line {line}: ")), "{message}");
        assert!(message.contains(problem), "{message}");
        assert_eq!((text(&output.stdout).as_str(), self.count_events()), ("", 0));
    }

    /// Computes the totals of the file with code that shares nothing with the shop's.
    pub(crate) fn sums_of_file(&self) -> Sums {
        let file = fs::read_to_string(&self.orders).expect("the file can be read");
        let mut sums = Sums::default();
        let mut orders: HashMap<&str, u32> = HashMap::new();
        for line in file.lines().skip(1) {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let cents: u64 = columns[3].replace('.', "").parse().expect("amounts are generated with two decimals");
            *orders.entry(columns[0]).or_default() += 1;
            sums.orders += 1;
            sums.units += columns[2].parse::<u64>().expect("quantities are generated");
            sums.revenue += cents;
            *sums.months.entry(format!("{}-{}", &columns[1][..4], &columns[1][4..6])).or_default() += cents;
        }
        sums.customers = orders.len() as u64;
        sums.repeat = orders.values().filter(|count| **count > 1).count() as u64;
        sums
    }
}

/// Returns the minimum number of events; deliveries after the first add to it.
pub(crate) fn expected_events(sums_of_file: &Sums) -> u64 {
    sums_of_file.customers + 6 * sums_of_file.orders + 100
}
