//! Runs the sides; each figure is measured by a separate process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio, id};
use std::time::{Duration, Instant};

use crate::plan::{ENTRIES, Entry, OURS, Phase, Row, phases};
use crate::results::{Figures, Measured, Results};
use crate::table;

/// Time limit of a process; after that it counts as hung.
const TIMEOUT: Duration = Duration::from_mins(4);

/// The reason why a figure is missing.
enum Missing {
    None(String),
    Failed(String),
}

struct Bench<'a> {
    programs: &'a Path,
    passes: usize,
    only: Vec<&'a str>,
    phases: Vec<&'a str>,
}

/// A kind of database: a server, or a folder of files.
struct Databases<'a> {
    name: &'static str,
    place: &'a str,
}

pub(crate) fn run(programs: &Path, results: &Path, options: &[&str]) {
    let option = |name: &str| options.iter().find_map(|option| option.strip_prefix(name)?.strip_prefix('='));
    let all = |prefix| options.iter().filter_map(|option| option.strip_prefix(prefix)).collect();
    let (only, phases) = (all("only="), all("phase="));
    let passes = option("passes").map_or(3, |passes| passes.parse().unwrap());
    let bench = Bench { programs, passes, only, phases };
    fs::create_dir_all(results).unwrap();
    let mut failed = false;
    for name in ["postgres", "sqlite"] {
        let Some(place) = option(name) else { continue };
        let measured = bench.measure(&Databases { name, place }, &|so_far| {
            so_far.write(&results.join(format!("{name}.json")));
            fs::write(results.join(format!("{name}.md")), table::table(so_far)).unwrap();
        });
        failed |= measured.rows.iter().any(|row| matches!(row.of(OURS), Some(Figures::Failed(_))));
    }
    assert!(!failed, "{OURS} failed");
}

impl Bench<'_> {
    fn measure(&self, databases: &Databases, written: &dyn Fn(&Results)) -> Results {
        let sides: Vec<Entry> = ENTRIES.into_iter().filter(|entry| self.takes(entry, databases)).collect();
        let mut results =
            Results { database: self.version(databases), machine: machine(), versions: versions(), rows: Vec::new() };
        for phase in phases().into_iter().filter(|phase| self.phases.is_empty() || self.phases.contains(&phase.name)) {
            let began = Instant::now();
            let sides: Vec<Entry> = sides
                .iter()
                .copied()
                .filter(|side| side.phases.is_empty() || side.phases.contains(&phase.name))
                .collect();
            let seeded: Vec<_> = sides.iter().map(|side| (*side, self.seed(databases, *side, &phase))).collect();
            eprintln!("{}: {} filled, {:.0?}", databases.name, phase.name, began.elapsed());
            let mut rows: Vec<_> = phase
                .rows
                .iter()
                .map(|row| Measured {
                    phase: phase.name.into(),
                    name: row.name.clone(),
                    unit: row.unit.into(),
                    sides: Vec::new(),
                })
                .collect();
            for _ in 0..self.passes {
                for (row, measured) in phase.rows.iter().zip(&mut rows) {
                    for (side, seeded) in &seeded {
                        let figure = match seeded {
                            Ok(()) => self.figure(databases, *side, phase.name, row),
                            Err(why) => Err(Missing::Failed(why.clone())),
                        };
                        measured.add(side.name, figure);
                    }
                }
            }
            for (side, _) in &seeded {
                drop(self.child(databases, *side, phase.name, 1, &["drop".into()]));
            }
            results.rows.append(&mut rows);
            written(&results);
            eprintln!("{}: {} measured, {:.0?}", databases.name, phase.name, began.elapsed());
        }
        results
    }

    /// Returns the version of the database, asked through a side that is always available.
    fn version(&self, databases: &Databases) -> String {
        let asked = ENTRIES.into_iter().find(|entry| entry.name == OURS).unwrap();
        match self.child(databases, asked, "none", 1, &["version".into()]) {
            Ok(said) => said["said"].as_str().unwrap().to_owned(),
            Err(_) => panic!("{} does not answer", databases.name),
        }
    }

    fn takes(&self, entry: &Entry, databases: &Databases) -> bool {
        let here = if databases.name == "postgres" { entry.postgres } else { entry.sqlite };
        here && (self.only.is_empty() || self.only.contains(&entry.name))
    }

    /// Creates and fills a database; returns the reason if that fails.
    fn seed(&self, databases: &Databases, side: Entry, phase: &Phase) -> Result<(), String> {
        let words = |command: &str| vec![command.to_owned()];
        drop(self.child(databases, side, phase.name, 1, &words("drop")));
        for (connections, command) in [(4, words("create")), (16, phase.seed.clone()), (1, words("settle"))] {
            match self.child(databases, side, phase.name, connections, &command) {
                Ok(_) | Err(Missing::None(_)) => {}
                Err(Missing::Failed(why)) => return Err(format!("{}: {why}", command.join(" "))),
            }
        }
        Ok(())
    }

    fn figure(&self, databases: &Databases, side: Entry, phase: &str, row: &Row) -> Result<f64, Missing> {
        let said = self.child(databases, side, phase, row.connections, &row.command)?;
        Ok(said["figure"].as_f64().unwrap_or_else(|| panic!("{} printed no figure", side.name)))
    }

    /// Runs the side's program once and returns its output.
    fn child(
        &self,
        databases: &Databases,
        side: Entry,
        phase: &str,
        connections: u64,
        command: &[String],
    ) -> Result<serde_json::Value, Missing> {
        let place = databases.of(side.name, phase);
        let mut child = Command::new(self.programs.join(side.program))
            .args([side.name, place.to_str().unwrap(), &connections.to_string()])
            .args(command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let began = Instant::now();
        // The output fits into the pipes unless every task panics; in that case the time limit ends the process.
        while child.try_wait().unwrap().is_none() {
            if began.elapsed() > TIMEOUT {
                child.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            eprintln!("{} {}: {errors}", side.name, command.join(" "));
            return Err(Missing::Failed(errors.lines().take(3).collect::<Vec<_>>().join(" ")));
        }
        let said = match String::from_utf8_lossy(&output.stdout).trim() {
            "" => serde_json::Value::Null,
            said => serde_json::from_str(said).unwrap(),
        };
        match said["none"].as_str() {
            Some(why) => Err(Missing::None(why.into())),
            None => Ok(said),
        }
    }
}

impl Databases<'_> {
    fn of(&self, side: &str, phase: &str) -> PathBuf {
        let side: String = side.chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect();
        let name = format!("peers_{}_{side}_{phase}", id());
        match self.place.strip_prefix("postgres").and(self.place.rsplit_once('/')) {
            Some((server, _)) => PathBuf::from(format!("{server}/{name}")),
            None => Path::new(self.place).join(name).with_extension("db"),
        }
    }
}

impl Measured {
    fn add(&mut self, side: &str, figure: Result<f64, Missing>) {
        if self.of(side).is_none() {
            self.sides.push((side.into(), Figures::Passes(Vec::new())));
        }
        let (_, figures) = self.sides.iter_mut().find(|(name, _)| name == side).unwrap();
        match (figures, figure) {
            (Figures::Passes(passes), Ok(figure)) => passes.push(figure),
            (_, Ok(_)) => {}
            (figures, Err(Missing::None(why))) => *figures = Figures::None(why),
            (figures, Err(Missing::Failed(why))) => *figures = Figures::Failed(why),
        }
    }
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().unwrap();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0);
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = processor.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("");
    format!("{cores} cores ({}), {} GiB", processor.trim_start_matches([' ', '\t', ':']), kib.div_ceil(1024 * 1024))
}

/// Returns the versions of the measured packages from the lock files.
fn versions() -> Vec<(String, String)> {
    let locks = [include_str!("../sqlx09/Cargo.lock"), include_str!("../sqlx08/Cargo.lock")];
    let measured = [
        "retell",
        "cqrs-es",
        "postgres-es",
        "sqlite-es",
        "esrs",
        "disintegrate",
        "disintegrate-postgres",
        "eventastic",
        "eventastic_postgres",
        "evento",
        "eventcore",
        "eventcore-postgres",
        "eventcore-sqlite",
        "es-entity",
        "sqlx",
    ];
    let packages = locks.iter().flat_map(|lock| lock.split("[[package]]"));
    let field = |package: &str, field: &str| {
        package.lines().find_map(|line| Some(line.strip_prefix(field)?.trim_matches([' ', '=', '"']).to_owned()))
    };
    let named = packages.filter_map(|package| Some((field(package, "name")?, field(package, "version")?)));
    named.filter(|(name, _)| measured.contains(&name.as_str())).collect()
}
