//! The example `shop` as its users see it: a process that is started, killed, stopped and started again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use retell::rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use tempfile::TempDir;

const HEADER: &str = " customer_id  date number_of_cds  dollar_value\r\n";

/// Orders of the generated file.
const LINES: u32 = 1_500;

/// The longest a run may take on a slow and busy machine.
const PATIENCE: Duration = Duration::from_mins(4);

#[test]
fn the_report_equals_the_sums_of_the_file() {
    let bench = Bench::new();
    assert_eq!(bench.sell(&[]), bench.truth());
}

#[test]
fn one_writer_and_many_arrive_at_the_same_sums() {
    let (one, many) = (Bench::new(), Bench::new());
    assert_eq!(one.sell(&["--writers", "1"]), many.sell(&["--writers", "32"]));
    assert_eq!(one.count_events(), many.count_events());
}

#[test]
fn killed_at_any_moment_it_goes_on_and_arrives_at_the_same_sums() {
    let undisturbed = Bench::new();
    let expected = undisturbed.sell(&[]);
    let events = undisturbed.count_events();
    let mut random = Random::seeded();
    for _ in 0..3 {
        let bench = Bench::new();
        let mut moments: Vec<_> = (0..3).map(|_| random.below(events)).collect();
        moments.sort_unstable();
        println!("killed at {moments:?} of {events} events");
        for moment in moments {
            bench.kill_at(moment);
        }
        assert_eq!(bench.sell(&[]), expected);
        assert_eq!(bench.count_events(), events);
    }
}

#[test]
fn a_finished_run_can_be_started_again_and_writes_nothing() {
    let bench = Bench::new();
    let first = bench.sell(&[]);
    let events = bench.count_events();
    assert_eq!(bench.sell(&[]), first);
    assert_eq!(bench.count_events(), events);
}

#[test]
fn asked_to_stop_it_ends_in_order_and_can_go_on() {
    let bench = Bench::new();
    let shop = bench.start_and_await(1_000);
    let killed = Command::new("kill").args(["-TERM", &shop.0.id().to_string()]).status().expect("kill runs");
    assert!(killed.success());
    let output = shop.output();
    assert_eq!(output.status.code(), Some(143), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("stopped on request"), "{}", text(&output.stderr));
    assert!(bench.count_events() < expected_events(&bench.truth()));
    assert_eq!(bench.sell(&[]), bench.truth());
}

#[test]
fn all_events_of_a_line_share_one_correlation_id_also_across_a_kill() {
    let bench = Bench::new();
    bench.kill_at(2_000);
    bench.sell(&[]);
    let db = bench.database().expect("the run has made it");
    let query = "SELECT count(DISTINCT correlation_id) FROM retell_events WHERE event_type = ?1";
    for event_type in ["order.created", "payment.completed", "inventory.deducted"] {
        let ids: i64 = db.query_row(query, [event_type], |row| row.get(0)).expect("the query is sound");
        assert_eq!(ids, i64::from(LINES), "{event_type}");
    }
    let alone = "SELECT count(*) FROM (SELECT 1 FROM retell_events WHERE event_type IN
        ('order.created', 'payment.completed', 'inventory.deducted') GROUP BY correlation_id HAVING count(*) <> 3)";
    assert_eq!(db.query_row(alone, [], |row| row.get::<_, i64>(0)).expect("the query is sound"), 0);
}

#[test]
fn a_malformed_line_is_named_and_nothing_is_written() {
    for (line, complaint) in [
        ("1 19970101 1", "3 columns"),
        ("1 19970101 1 1.00 1", "5 columns"),
        ("", "0 columns"),
        ("x 19970101 1 1.00", "customer id"),
        ("-1 19970101 1 1.00", "customer id"),
        ("99999999999999999999 19970101 1 1.00", "customer id"),
        ("1 19970229 1 1.00", "date"),
        ("1 1997-01-01 1 1.00", "date"),
        ("1 19971301 1 1.00", "date"),
        ("1 19970101 0 1.00", "number of CDs"),
        ("1 19970101 -2 1.00", "number of CDs"),
        ("1 19970101 1.5 1.00", "number of CDs"),
        ("1 19970101 4294967297 1.00", "number of CDs"),
        ("1 19970101 1 NaN", "amount"),
        ("1 19970101 1 inf", "amount"),
        ("1 19970101 1 -1.00", "amount"),
        ("1 19970101 1 +1.00", "amount"),
        ("1 19970101 1 1e3", "amount"),
        ("1 19970101 1 1.001", "amount"),
        ("1 19970101 1 1.", "amount"),
        ("1 19970101 1 18446744073709551616", "amount"),
        (&"1 ".repeat(150), "longer than"),
    ] {
        let bench =
            Bench::with(&format!("{HEADER}1 19970101 1 1.00\r\n2 19970101 1 1.00\r\n{line}\r\n3 19970101 1 1.00\r\n"));
        bench.assert_refused(4, complaint);
    }
}

#[test]
fn a_file_without_its_header_is_refused() {
    Bench::with("1 19970101 1 1.00\r\n").assert_refused(1, "header");
    Bench::with("").assert_refused(1, "header");
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    let bench = Bench::with("");
    let mut bytes = HEADER.as_bytes().to_vec();
    bytes.extend(b"1 19970101 1 \xff.00\r\n");
    fs::write(&bench.orders, bytes).expect("the folder is writable");
    bench.assert_refused(2, "UTF-8");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let bench = Bench::new();
    fs::remove_file(&bench.orders).expect("the file is there");
    let output = bench.start(&[]).output();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("orders.txt"), "{}", text(&output.stderr));
}

#[test]
fn a_file_of_nothing_but_the_header_sells_nothing() {
    let bench = Bench::with(HEADER);
    assert_eq!(bench.sell(&[]), Sums::default());
}

#[test]
fn a_last_line_without_its_end_counts() {
    let bench = Bench::with(&format!("{HEADER}1 19970101 2 1.05"));
    assert_eq!(bench.sell(&[]), bench.truth());
}

#[test]
fn another_file_over_the_same_log_is_found_out() {
    let bench = Bench::with(&format!("{HEADER}1 19970101 2 1.05\r\n"));
    bench.sell(&[]);
    fs::write(&bench.orders, format!("{HEADER}1 19970101 2 1.06\r\n")).expect("the folder is writable");
    let output = bench.start(&[]).output();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("revenue: $1.05 in the read models, $1.06 in the file"));
}

#[test]
fn a_consumer_that_fails_ends_the_run() {
    let bench = Bench::with(&format!("{HEADER}1 19970101 2 1.05\r\n"));
    bench.sell(&[]);
    fs::write(&bench.orders, format!("{HEADER}1 19970101 2 1.05\r\n1 19970102 1 2.00\r\n"))
        .expect("the folder is writable");
    let models = Connection::open(bench.db.with_extension("db.models")).expect("the read models are there");
    models.execute("UPDATE audit_last SET position = position + 1", []).expect("the audit has a table");
    drop(models);
    let output = bench.start(&[]).output();
    assert_eq!(output.status.code(), Some(1));
    let message = text(&output.stderr);
    assert!(message.contains("cannot run audit: ") && message.contains("came after position"), "{message}");
}

#[test]
fn read_models_without_their_log_are_refused() {
    let bench = Bench::with(&format!("{HEADER}1 19970101 2 1.05\r\n"));
    bench.sell(&[]);
    fs::remove_file(&bench.db).expect("the log is there");
    let output = bench.start(&[]).output();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("lies beyond the log's head"), "{}", text(&output.stderr));
}

#[test]
fn json_is_one_object_with_every_field() {
    let bench = Bench::new();
    let report = bench.report(&[]);
    for field in ["customers", "orders", "units", "revenue_cents", "events"] {
        assert!(report[field].is_u64(), "{field}: {}", report[field]);
    }
    assert!(report["revenue_by_month"].is_object());
    assert!(report["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0));
    assert!(report["events_per_second"].as_f64().is_some_and(|speed| speed > 0.0));
    assert_eq!((report["store"].as_str(), report["broker"].as_str()), (Some("sqlite"), Some("memory")));
    assert_eq!(report["events"], bench.count_events());
}

#[test]
fn people_get_a_chart_and_the_totals() {
    let bench = Bench::new();
    let output = run(Command::new(shop()).arg("--orders").arg(&bench.orders)).output();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report = text(&output.stdout);
    for part in ["Revenue by month", "█", "Best customers", "came back", "1,500", "agree with the file"] {
        assert!(report.contains(part), "{part} is missing in {report}");
    }
}

/// What a file of orders adds up to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sums {
    customers: u64,
    orders: u64,
    units: u64,
    revenue: u64,
    months: BTreeMap<String, u64>,
    repeat: u64,
}

/// A folder with orders and a place for the log.
struct Bench {
    orders: PathBuf,
    db: PathBuf,
    _folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self::with(&generated_orders())
    }

    fn with(orders: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let bench =
            Self { orders: folder.path().join("orders.txt"), db: folder.path().join("shop.db"), _folder: folder };
        fs::write(&bench.orders, orders).expect("the folder is writable");
        bench
    }

    fn start(&self, arguments: &[&str]) -> Shop {
        run(Command::new(shop())
            .arg("--json")
            .arg("--orders")
            .arg(&self.orders)
            .arg("--db")
            .arg(&self.db)
            .args(arguments))
    }

    /// Runs to the end.
    fn report(&self, arguments: &[&str]) -> Value {
        let output = self.start(arguments).output();
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("the report is JSON")
    }

    /// Runs to the end and returns what the read models say.
    fn sell(&self, arguments: &[&str]) -> Sums {
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

    /// Starts, and waits until the log has so many events or the run has ended.
    fn start_and_await(&self, events: u64) -> Shop {
        let mut shop = self.start(&[]);
        while shop.is_running() && self.count_events() < events {
            std::thread::sleep(Duration::from_millis(1));
        }
        shop
    }

    /// Starts, and kills it without a warning.
    fn kill_at(&self, events: u64) {
        let mut shop = self.start_and_await(events);
        shop.0.kill().expect("a child can be killed");
        shop.0.wait().expect("a child can be waited for");
    }

    fn database(&self) -> Option<Connection> {
        Connection::open_with_flags(&self.db, OpenFlags::SQLITE_OPEN_READ_ONLY).ok()
    }

    /// Zero as long as there is no log.
    fn count_events(&self) -> u64 {
        let count = |db: Connection| db.query_row("SELECT count(*) FROM retell_events", [], |row| row.get(0)).ok();
        let events: i64 = self.database().and_then(count).unwrap_or(0);
        u64::try_from(events).unwrap_or(0)
    }

    #[track_caller]
    fn assert_refused(&self, line: u32, complaint: &str) {
        let output = self.start(&[]).output();
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains(&format!("orders.txt, line {line}: ")), "{message}");
        assert!(message.contains(complaint), "{message}");
        assert_eq!((text(&output.stdout).as_str(), self.count_events()), ("", 0));
    }

    /// The sums of the file, by code that shares nothing with the shop's.
    fn truth(&self) -> Sums {
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

/// At least so many events: the deliveries after the first come on top.
fn expected_events(truth: &Sums) -> u64 {
    truth.customers + 3 * truth.orders + 100
}

/// A running process, killed when a test fails.
struct Shop(Child);

impl Shop {
    fn is_running(&mut self) -> bool {
        self.0.try_wait().expect("a child can be asked").is_none()
    }

    /// Waits for the end. What it prints fits into a pipe.
    fn output(mut self) -> Output {
        let end = Instant::now() + PATIENCE;
        while self.is_running() {
            assert!(Instant::now() < end, "the shop does not come to an end");
            std::thread::sleep(Duration::from_millis(5));
        }
        let read = |pipe: Option<&mut dyn std::io::Read>| {
            let mut bytes = Vec::new();
            pipe.map(|pipe| pipe.read_to_end(&mut bytes).expect("a pipe can be read"));
            bytes
        };
        let stdout = read(self.0.stdout.as_mut().map(|pipe| pipe as _));
        let stderr = read(self.0.stderr.as_mut().map(|pipe| pipe as _));
        Output { status: self.0.wait().expect("a child can be waited for"), stdout, stderr }
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        // It has ended already, unless the test fails.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(command: &mut Command) -> Shop {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null()).spawn();
    Shop(child.expect("the shop starts"))
}

/// The example lies beside the folder of this test. Cargo does not build it for a test, so it may be missing or old.
fn shop() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its path");
    let folder = test.parent().and_then(Path::parent).expect("target/<profile>/deps");
    let shop = folder.join("examples").join(format!("shop{}", std::env::consts::EXE_SUFFIX));
    assert!(shop.exists(), "{} is missing: run `cargo build --example shop`", shop.display());
    if let Some(newer) = newer_source(&shop) {
        panic!("{} is older than {newer}: run `cargo build --example shop`", shop.display());
    }
    shop
}

/// A source file that was changed after the program was built. Cargo lists them beside it, as a rule of make.
fn newer_source(program: &Path) -> Option<String> {
    let changed = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
    let built = changed(program)?;
    let rule = fs::read_to_string(program.with_extension("d")).ok()?;
    let (_, sources) = rule.split_once(": ")?;
    let newer = sources.split_whitespace().find(|source| changed(Path::new(source)) > Some(built))?;
    Some(newer.to_owned())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Customers with 1 to 9 orders each, some of them for nothing, some twice on a day; enough CDs that stock runs out.
fn generated_orders() -> String {
    let mut random = Random(1997);
    let (mut text, mut customer, mut left) = (HEADER.to_owned(), 0, 0);
    for _ in 0..LINES {
        if left == 0 {
            (customer, left) = (customer + 1, 1 + random.below(9));
        }
        left -= 1;
        let date = 19_970_000 + (random.below(2) * 10_000) + (1 + random.below(12)) * 100 + 1 + random.below(3);
        let cents = if random.below(20) == 0 { 0 } else { random.below(100_000) };
        let quantity = 1 + random.below(400);
        let dollars = format!("{}.{:02}", cents / 100, cents % 100);
        let _ = write!(text, " {customer:05} {date} {quantity:>2} {dollars:>7}\r\n");
    }
    text
}

/// A generator of its own, so that the same seed gives the same numbers for ever (xorshift).
struct Random(u64);

impl Random {
    /// Seeded by `SHOP_SEED`, else by the clock; the seed is printed.
    fn seeded() -> Self {
        let clock = || SystemTime::UNIX_EPOCH.elapsed().map_or(1, |time| u64::from(time.subsec_nanos()) + 1);
        let seed = std::env::var("SHOP_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(clock);
        println!("SHOP_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }
}

#[test]
fn the_generated_file_has_what_it_is_meant_to_have() {
    let file = generated_orders();
    let lines: Vec<Vec<&str>> = file.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    let days: BTreeSet<_> = lines.iter().map(|line| (line[0], line[1])).collect();
    assert!(days.len() < lines.len(), "nobody buys twice on a day");
    assert!(lines.iter().any(|line| line[3] == "0.00"), "nothing is for free");
}
