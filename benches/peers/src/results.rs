//! The measured figures, and their JSON file.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) database: String,
    pub(crate) machine: String,
    /// Names and versions of the measured packages.
    pub(crate) versions: Vec<(String, String)>,
    pub(crate) rows: Vec<Measured>,
}

/// One row of the table, with the figures of each side.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) phase: String,
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) sides: Vec<(String, Figures)>,
}

/// One figure per pass, or the reason why there is none.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Figures {
    Passes(Vec<f64>),
    None(String),
    Failed(String),
}

impl Results {
    pub(crate) fn read(path: &Path) -> Option<Self> {
        Some(serde_json::from_str(&fs::read_to_string(path).ok()?).unwrap())
    }

    pub(crate) fn write(&self, path: &Path) {
        fs::write(path, serde_json::to_string_pretty(self).unwrap() + "\n").unwrap();
    }
}

impl Measured {
    pub(crate) fn of(&self, side: &str) -> Option<&Figures> {
        self.sides.iter().find(|(name, _)| name == side).map(|(_, figures)| figures)
    }

    pub(crate) fn median_of(&self, side: &str) -> Option<f64> {
        self.of(side)?.passes().map(median)
    }
}

impl Figures {
    pub(crate) fn passes(&self) -> Option<&[f64]> {
        match self {
            Self::Passes(passes) if !passes.is_empty() => Some(passes),
            _ => None,
        }
    }
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    sorted[sorted.len() / 2]
}

pub(crate) fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}
