//! Measures all sides in turn and writes tables and plots.
//!
//! ```text
//! peers run PROGRAMS RESULTS [postgres=URL] [sqlite=FOLDER] [passes=3] [only=SIDE].. [phase=NAME]..
//! peers plot RESULTS
//! peers doc RESULTS PAGE
//! ```
//!
//! `PROGRAMS` is the folder with `peers-sqlx08` and `peers-sqlx09`. Each figure is measured by a separate process, one side after the
//! other, and again in the next pass. So a temporary slowdown of the machine affects all sides.

mod plan;
mod plot;
mod results;
mod run;
mod table;

use std::path::Path;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["run", programs, results, options @ ..] => run::run(Path::new(programs), Path::new(results), options),
        ["plot", results] => plot::plot(Path::new(results)),
        ["doc", results, page] => table::into_page(Path::new(results), Path::new(page)),
        _ => panic!(
            "run PROGRAMS RESULTS [postgres=URL] [sqlite=FOLDER] [passes=3] [only=SIDE].. [phase=NAME].., plot RESULTS, or doc RESULTS PAGE"
        ),
    }
}
