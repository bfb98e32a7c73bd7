//! The tables, in Markdown.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::plan::OURS;
use crate::results::{Figures, Measured, Results, median, sorted};

/// Markers around the tables in a page.
const BEGIN: &str = "<!-- results -->";
const END: &str = "<!-- end of results -->";

const TITLES: [(&str, &str); 4] = [
    ("append", "One command, one event: load, decide, append (commands/s)"),
    ("load", "Load one aggregate (ms; less is better)"),
    ("log", "All events into a counter (events/s)"),
    ("view", "Replay into the library's own view table (events/s)"),
];

/// Writes a table for each phase, with a line for each side. Reasons for missing figures follow the table.
pub(crate) fn table(results: &Results) -> String {
    let (database, machine, versions) = (&results.database, &results.machine, versions(results));
    let mut text = format!("## {database}\n\nOn {machine}. {versions}\n");
    for (phase, title) in TITLES {
        let rows: Vec<_> = results.rows.iter().filter(|row| row.phase == phase).collect();
        if !rows.is_empty() {
            write!(text, "\n### {title}\n\n").unwrap();
            lines(&mut text, &rows);
        }
    }
    text
}

/// Replaces the tables in a page.
pub(crate) fn into_page(results: &Path, page: &Path) {
    let text = fs::read_to_string(page).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let tables: Vec<_> =
        ["postgres.md", "sqlite.md"].iter().filter_map(|name| fs::read_to_string(results.join(name)).ok()).collect();
    fs::write(page, format!("{before}{BEGIN}\n{}{END}{after}", tables.join("\n"))).unwrap();
}

fn versions(results: &Results) -> String {
    results.versions.iter().map(|(name, version)| format!("{name} {version}")).collect::<Vec<_>>().join(", ") + "."
}

fn lines(text: &mut String, rows: &[&Measured]) {
    let names = rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>().join(" | ");
    writeln!(text, "| | {names} |\n|---|{}", "---|".repeat(rows.len())).unwrap();
    for (side, _) in &rows[0].sides {
        let cells = rows.iter().map(|row| cell(row, side)).collect::<Vec<_>>().join(" | ");
        writeln!(text, "| {side} | {cells} |").unwrap();
    }
    let mut told = Vec::new();
    for (side, why) in rows.iter().flat_map(|row| &row.sides).filter_map(|(side, figures)| Some((side, figures.why()?)))
    {
        if !told.contains(&(side, why)) {
            told.push((side, why));
            write!(text, "\n{side}: {why}.").unwrap();
        }
    }
    if !told.is_empty() {
        text.push('\n');
    }
}

/// Formats the median, and the library's advantage: the median, minimum and maximum of the ratios of each pass.
fn cell(row: &Measured, side: &str) -> String {
    let Some(passes) = row.of(side).and_then(Figures::passes) else {
        return match row.of(side) {
            Some(Figures::Failed(_)) => "failed".into(),
            _ => "none".into(),
        };
    };
    let figure = number(median(passes));
    let ours = row.of(OURS).and_then(Figures::passes);
    let Some(ours) = ours.filter(|ours| side != OURS && ours.len() == passes.len()) else {
        return format!("**{figure}**");
    };
    let pairs = ours.iter().zip(passes);
    let ratios = sorted(
        &pairs.map(|(ours, theirs)| if row.unit == "ms" { theirs / ours } else { ours / theirs }).collect::<Vec<_>>(),
    );
    let [least, most] = [ratios[0], ratios[ratios.len() - 1]].map(ratio);
    format!("{figure} ({}x [{least}, {most}])", ratio(median(&ratios)))
}

impl Figures {
    fn why(&self) -> Option<&str> {
        match self {
            Self::Passes(_) => None,
            Self::None(why) | Self::Failed(why) => Some(why),
        }
    }
}

fn ratio(ratio: f64) -> String {
    if ratio < 10.0 { format!("{ratio:.2}") } else { format!("{ratio:.0}") }
}

/// Formats about three significant digits, with thousands separators.
fn number(value: f64) -> String {
    if value < 1.0 {
        return format!("{value:.2}");
    }
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let groups = digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap());
    groups.collect::<Vec<_>>().join(",")
}
