//! Two SVG plots of the figures, readable on light and dark pages: appends by number of writers, and load time by number of events.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::plan::OURS;
use crate::results::{Measured, Results};

const WIDTH: f64 = 780.0;
const HEIGHT: f64 = 430.0;
/// Left, top, right and bottom of the area of the lines; their names are to its right.
const AREA: (f64, f64, f64, f64) = (74.0, 48.0, 600.0, 380.0);
/// Distance between two names.
const LINE: f64 = 17.0;

/// Distinguishable on white and on black.
const COLOURS: [&str; 10] =
    ["#e4572e", "#7a8699", "#2e86de", "#17a398", "#b5651d", "#9b59b6", "#c0392b", "#5d8a2a", "#d4a017", "#e377c2"];

/// Gray is readable on light and dark pages; if the page's color scheme is known, use a color with more contrast.
const STYLE: &str = "text { font: 13px system-ui, sans-serif; fill: #777 } .title { font-size: 15px; font-weight: 600 } \
    .grid { stroke: #8884; stroke-width: 1 } .line { fill: none; stroke-width: 1.6 } .ours { stroke-width: 3.2 } .bold { font-weight: 600 } \
    @media (prefers-color-scheme: light) { text { fill: #333 } } @media (prefers-color-scheme: dark) { text { fill: #ddd } }";

/// Lines over the same values, with both axes logarithmic.
struct Chart {
    title: String,
    across: &'static str,
    values: Vec<f64>,
    lines: Vec<Line>,
}

struct Line {
    side: String,
    points: Vec<Option<f64>>,
}

pub(crate) fn plot(results: &Path) {
    for name in ["postgres", "sqlite"] {
        let Some(measured) = Results::read(&results.join(format!("{name}.json"))) else { continue };
        let title = |what: &str| format!("{what}, {name}");
        let charts = [
            ("append", Chart::from_results(&measured, "append", "fresh, ", title("Commands a second"), "writers")),
            ("load", Chart::from_results(&measured, "load", "", title("Milliseconds to load an aggregate"), "events")),
        ];
        for (kind, chart) in charts {
            if chart.values.len() > 1 {
                fs::write(results.join(format!("{name}-{kind}.svg")), chart.svg()).unwrap();
            }
        }
    }
}

impl Chart {
    /// Creates a chart from the rows of `phase` whose names consist of `prefix`, a number and a unit.
    fn from_results(results: &Results, phase: &str, prefix: &str, title: String, across: &'static str) -> Self {
        let value = |row: &Measured| {
            let (value, unit) = row.name.strip_prefix(prefix)?.split_once(' ')?;
            if unit.contains(',') { None } else { value.parse::<f64>().ok() }
        };
        let rows = results.rows.iter().filter(|row| row.phase == phase);
        let rows: Vec<(f64, &Measured)> = rows.filter_map(|row| Some((value(row)?, row))).collect();
        let sides = rows.first().map(|(_, row)| row.sides.iter().map(|(side, _)| side.clone()).collect());
        let sides: Vec<String> = sides.unwrap_or_default();
        let points = |side: &str| rows.iter().map(|(_, row)| row.median_of(side)).collect();
        let lines = sides.into_iter().map(|side| Line { points: points(&side), side });
        Self {
            title,
            across,
            values: rows.iter().map(|(value, _)| *value).collect(),
            lines: lines.filter(|line| line.points.iter().any(Option::is_some)).collect(),
        }
    }

    fn svg(&self) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n\
             <title>{0}</title>\n<style>{STYLE}</style>\n<text class=\"title\" x=\"{1}\" y=\"24\">{0}</text>\n",
            self.title, AREA.0
        );
        self.grid(&mut svg);
        for (line, colour) in self.lines.iter().zip(COLOURS.iter().cycle()) {
            self.line(&mut svg, line, colour);
        }
        self.names(&mut svg);
        svg + "</svg>\n"
    }

    fn grid(&self, svg: &mut String) {
        let (left, top, right, bottom) = AREA;
        let (least, most) = self.range();
        let mut decade = 10_f64.powf(least.log10().floor());
        while decade <= most {
            for step in
                [1.0, 2.0, 5.0].map(|step| step * decade).into_iter().filter(|step| (least..=most).contains(step))
            {
                let y = self.y(step);
                writeln!(svg, "<path class=\"grid\" d=\"M{left} {y:.1}H{right}\"/>").unwrap();
                writeln!(svg, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{step}</text>", left - 8.0, y + 4.0)
                    .unwrap();
            }
            decade *= 10.0;
        }
        for value in &self.values {
            let x = self.x(*value);
            writeln!(svg, "<path class=\"grid\" d=\"M{x:.1} {top}V{bottom}\"/>").unwrap();
            writeln!(svg, "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{value}</text>", bottom + 20.0).unwrap();
        }
        let middle = f64::midpoint(left, right);
        writeln!(svg, "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>", bottom + 40.0, self.across)
            .unwrap();
    }

    fn line(&self, svg: &mut String, line: &Line, colour: &str) {
        let points: Vec<(f64, f64)> = self
            .values
            .iter()
            .zip(&line.points)
            .filter_map(|(value, point)| Some((self.x(*value), self.y((*point)?))))
            .collect();
        let path = points.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect::<Vec<_>>().join("L");
        let class = if line.side == OURS { "line ours" } else { "line" };
        writeln!(svg, "<path class=\"{class}\" stroke=\"{colour}\" d=\"M{path}\"/>").unwrap();
        for (x, y) in points {
            writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>").unwrap();
        }
    }

    /// Writes each name next to the end of its line, moved down if it would overlap another.
    fn names(&self, svg: &mut String) {
        let end = |line: &Line| line.points.iter().rev().find_map(|point| *point).map(|point| self.y(point));
        let mut ends: Vec<_> = self
            .lines
            .iter()
            .zip(COLOURS.iter().cycle())
            .filter_map(|(line, colour)| Some((end(line)?, line, colour)))
            .collect();
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        let lowest = HEIGHT - LINE * f64::from(u32::try_from(ends.len()).unwrap_or(0));
        let mut free = f64::NEG_INFINITY;
        for (y, line, colour) in ends {
            let place = y.min(lowest.max(free)).max(free);
            free = place + LINE;
            let class = if line.side == OURS { " class=\"bold\"" } else { "" };
            let x = AREA.2 + 14.0;
            writeln!(svg, "<circle cx=\"{x}\" cy=\"{place:.1}\" r=\"4\" fill=\"{colour}\"/>").unwrap();
            writeln!(svg, "<text{class} x=\"{}\" y=\"{:.1}\">{}</text>", x + 10.0, place + 4.5, line.side).unwrap();
        }
    }

    /// Returns the minimum and maximum of all points, with a margin.
    fn range(&self) -> (f64, f64) {
        let points = || self.lines.iter().flat_map(|line| &line.points).flatten().copied();
        (points().fold(f64::INFINITY, f64::min) * 0.85, points().fold(0.0, f64::max) * 1.15)
    }

    fn x(&self, value: f64) -> f64 {
        between(value, (self.values[0], self.values[self.values.len() - 1]), (AREA.0 + 16.0, AREA.2 - 16.0))
    }

    fn y(&self, value: f64) -> f64 {
        between(value, self.range(), (AREA.3, AREA.1))
    }
}

/// Maps a value to a logarithmic axis.
fn between(value: f64, (least, most): (f64, f64), (from, to): (f64, f64)) -> f64 {
    from + (to - from) * (value.ln() - least.ln()) / (most.ln() - least.ln())
}
