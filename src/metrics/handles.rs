//! Takes handles from the recorder that is installed.

use ::metrics::{
    Counter, Gauge, Histogram, Label, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};

use crate::metrics::names::{ALL, Kind, Metric};

/// Tells the recorder the unit of each metric and the question that it answers. An exporter shows both.
///
/// # Examples
/// ```
/// // After the recorder is installed, and before the store is opened:
/// retell::metrics::describe();
/// ```
pub fn describe() {
    for metric in ALL {
        let unit = match metric.unit {
            "seconds" => Unit::Seconds,
            "bytes" => Unit::Bytes,
            _ => Unit::Count,
        };
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, unit, metric.question),
            Kind::Gauge => describe_gauge!(metric.name, unit, metric.question),
            Kind::Histogram => describe_histogram!(metric.name, unit, metric.question),
        }
    }
}

impl Metric {
    /// Takes the handle of a counter. `values` are those of its labels, in order.
    pub(crate) fn counter(&self, values: &[&str]) -> Counter {
        counter!(self.name, self.labels_with(values))
    }

    /// Takes the handle of a gauge. `values` are those of its labels, in order.
    pub(crate) fn gauge(&self, values: &[&str]) -> Gauge {
        gauge!(self.name, self.labels_with(values))
    }

    /// Takes the handle of a histogram. `values` are those of its labels, in order.
    pub(crate) fn histogram(&self, values: &[&str]) -> Histogram {
        histogram!(self.name, self.labels_with(values))
    }

    fn labels_with(&self, values: &[&str]) -> Vec<Label> {
        debug_assert_eq!(self.labels.len(), values.len(), "{}", self.name);
        self.labels.iter().zip(values).map(|(label, value)| Label::new(*label, (*value).to_owned())).collect()
    }
}

/// Converts a number for a recorder. Up to 2^53 it is exact.
#[expect(clippy::cast_precision_loss, reason = "metrics are floating-point numbers")]
pub(crate) fn float(number: u64) -> f64 {
    number as f64
}

/// Converts a size for a recorder.
pub(crate) fn size(number: usize) -> f64 {
    float(number as u64)
}
