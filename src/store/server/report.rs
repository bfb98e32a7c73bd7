//! The report on a database server: opening a store looks at everything and then returns all problems in one error.

use crate::error::{ErrorKind, Result, ServerProblem};

/// The problems found so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    problems: Vec<ServerProblem>,
}

impl Report {
    pub(crate) fn add(&mut self, problem: impl Into<String>, remedy: impl Into<String>) {
        self.problems.push(ServerProblem::new(problem, remedy));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// Adds a problem if numbers that two sessions have drawn in turn do not increase: a session that keeps numbers back for later commits
    /// would break the order of the log.
    pub(crate) fn expect_increasing(&mut self, numbers: [i64; 3], remedy: &str) {
        if !numbers.is_sorted_by(|earlier, later| earlier < later) {
            self.add(
                format!(
                    "two sessions drew the commit numbers {}, {} and {}, in this order",
                    numbers[0], numbers[1], numbers[2]
                ),
                remedy,
            );
        }
    }

    /// Returns [`ErrorKind::UnfitServer`] if there are problems.
    pub(crate) fn check(self) -> Result<()> {
        if self.problems.is_empty() { Ok(()) } else { Err(ErrorKind::UnfitServer(self.problems).into()) }
    }
}

/// The objects that calls use and the rights on them that the database user lacks.
pub(crate) type Missing = Vec<(String, String)>;

/// Adds one problem for all missing rights, with the `GRANT` statements as its remedy.
pub(crate) fn add_missing(report: &mut Report, missing: &Missing, user: &str) {
    if missing.is_empty() {
        return;
    }
    let mut grants: Vec<(&str, Vec<&str>)> = Vec::new();
    for (object, right) in missing {
        match grants.iter_mut().find(|(known, _)| known == object) {
            Some((_, rights)) => rights.push(right),
            None => grants.push((object, vec![right])),
        }
    }
    let grants: Vec<_> =
        grants.iter().map(|(object, rights)| format!("GRANT {} ON {object} TO {user};", rights.join(", "))).collect();
    report.add(format!("the database user {user} lacks rights"), format!("run {}", grants.join(" ")));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_report_lists_every_problem() {
        let mut report = Report::default();
        report.expect_increasing([1, 2, 3], "none");
        assert!(report.is_empty());
        report.expect_increasing([1, 101, 2], "do not cache");
        let missing = [("events", "SELECT"), ("log", "SELECT"), ("events", "INSERT")];
        let missing = missing.map(|(object, right)| (object.to_owned(), right.to_owned())).to_vec();
        add_missing(&mut report, &missing, "app");
        let error = report.check().unwrap_err().to_string();
        assert!(error.contains("1, 101 and 2") && error.contains("do not cache"), "{error}");
        assert!(error.ends_with("run GRANT SELECT, INSERT ON events TO app; GRANT SELECT ON log TO app;"), "{error}");
    }
}
