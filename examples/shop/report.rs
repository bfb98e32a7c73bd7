//! The report of the read models, as text and as JSON, and its comparison with the file.

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Display};
use std::time::Duration;

use retell::BoxError;
use serde::Serialize;

use crate::chart::bars;
use crate::checkout::customer_id;
use crate::consumers::notification::Sent;
use crate::consumers::{analytics, audit, customers, notification, search};
use crate::domain::{Cents, grouped};
use crate::read_models::ReadModels;
use crate::truth::{Customer, Month, Truth};

/// Number of best customers in the report.
const BEST: usize = 10;

/// The report. All figures except the time come from the read models.
#[derive(Debug, Serialize)]
pub struct Report {
    customers: u64,
    orders: u64,
    cancelled: u64,
    units: u64,
    revenue_cents: Cents,
    revenue_by_month: BTreeMap<String, Cents>,
    units_by_month: BTreeMap<String, u64>,
    best_customers: Vec<BestCustomer>,
    busiest_day: Option<(String, u64)>,
    repeat_customers: u64,
    stock_left: u64,
    notifications: Sent,
    events: u64,
    events_by_type: BTreeMap<String, u64>,
    events_written: u64,
    seconds: f64,
    events_per_second: f64,
    store: &'static str,
    broker: &'static str,
    /// Figures that a second read model also has, for a cross-check.
    #[serde(skip)]
    cross_check: CrossCheck,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct BestCustomer {
    customer_id: String,
    orders: u64,
    revenue_cents: Cents,
    last_order: String,
}

#[derive(Debug)]
struct CrossCheck {
    orders: u64,
    revenue: Cents,
}

impl Report {
    pub async fn read(store: &'static str, broker: &'static str, models: &impl ReadModels) -> Result<Self, BoxError> {
        let months = analytics::months(models).await?;
        let customers = customers::all(models).await?;
        let events_by_type = audit::events_by_type(models).await?;
        let [orders, cancelled] = search::orders(models).await?;
        let cross_check = CrossCheck {
            orders: customers.iter().map(|(_, customer)| customer.orders).sum(),
            revenue: Cents(customers.iter().map(|(_, customer)| customer.revenue.0).sum()),
        };
        Ok(Self {
            customers: customers.len() as u64,
            orders,
            cancelled,
            units: months.values().map(|month| month.units).sum(),
            revenue_cents: Cents(months.values().map(|month| month.revenue.0).sum()),
            revenue_by_month: by_month(&months, |month| month.revenue),
            units_by_month: by_month(&months, |month| month.units),
            repeat_customers: customers.iter().filter(|(_, customer)| customer.orders > 1).count() as u64,
            best_customers: best_customers(models, customers).await?,
            busiest_day: search::busiest_day(models).await?,
            stock_left: analytics::stock_left(models).await?,
            notifications: notification::sent(models).await?,
            events: events_by_type.values().sum(),
            events_by_type,
            events_written: 0,
            seconds: 0.0,
            events_per_second: 0.0,
            store,
            broker,
            cross_check,
        })
    }

    /// Adds the time it took to write `events_written` events and to apply them to all read models.
    #[expect(clippy::cast_precision_loss, reason = "a speed is not exact")]
    pub fn timed(mut self, events_written: u64, took: Duration) -> Self {
        self.events_written = events_written;
        self.seconds = took.as_secs_f64();
        self.events_per_second = events_written as f64 / self.seconds;
        self
    }

    /// Returns the differences between the read models and the file; empty if they agree.
    pub fn differences(&self, truth: &Truth) -> Vec<String> {
        let mut found = Differences::default();
        let customers = truth.customers.len() as u64;
        found.compare("customers", &self.customers, &customers);
        let deliveries = self.of_type("inventory.received");
        found.compare("orders", &self.orders, &truth.orders);
        found.compare("cancelled orders", &self.cancelled, &truth.cancelled);
        found.compare("confirmed orders", &self.of_type("order.confirmed"), &truth.orders);
        // Orders that are cancelled later may have caused additional deliveries.
        let fewest = if truth.cancelled == 0 { deliveries } else { deliveries.min(truth.fewest_deliveries()) };
        found.compare("deliveries", &fewest, &truth.fewest_deliveries());
        found.compare("units", &self.units, &truth.units);
        found.compare("revenue", &self.revenue_cents, &truth.revenue);
        found.compare("repeat customers", &self.repeat_customers, &truth.repeat_customers());
        found.compare("pieces in stock", &self.stock_left, &truth.stock_left(deliveries));
        found.compare("welcome mails", &self.notifications.welcome_mails, &customers);
        found.compare("receipts", &self.notifications.receipts, &truth.orders);
        found.compare("orders of all customers", &self.cross_check.orders, &truth.orders);
        found.compare("revenue of all customers", &self.cross_check.revenue, &truth.revenue);
        found.compare("busiest day", &shown(self.busiest_day.as_ref()), &shown(truth.busiest_day().as_ref()));
        found.compare("events", &self.events, &truth.events(deliveries));
        found.compare_months("revenue", &self.revenue_by_month, &by_month(&truth.months, |month| month.revenue));
        found.compare_months("units", &self.units_by_month, &by_month(&truth.months, |month| month.units));
        found.compare_best(&self.best_customers, &truth.best_customers(BEST));
        found.0
    }

    fn of_type(&self, event_type: &str) -> u64 {
        self.events_by_type.get(event_type).copied().unwrap_or_default()
    }

    pub fn to_json(&self) -> String {
        // Serialization cannot fail: the report consists of strings, numbers, and maps with string keys.
        serde_json::to_string(self).unwrap_or_default()
    }
}

fn by_month<T>(months: &BTreeMap<String, Month>, part: fn(&Month) -> T) -> BTreeMap<String, T> {
    months.iter().map(|(name, month)| (name.clone(), part(month))).collect()
}

/// Returns the customers who spent most; equals are ordered by their numeric ids. Ids are padded to five digits, and longer ids are larger.
async fn best_customers(
    models: &impl ReadModels,
    mut customers: Vec<(String, Customer)>,
) -> Result<Vec<BestCustomer>, BoxError> {
    customers.sort_unstable_by(|(id, one), (other_id, other)| {
        other.revenue.cmp(&one.revenue).then_with(|| (id.len(), id).cmp(&(other_id.len(), other_id)))
    });
    let mut best = Vec::new();
    for (customer_id, Customer { orders, revenue }) in customers.into_iter().take(BEST) {
        let last_order = search::last_order(models, &customer_id).await?.unwrap_or_default();
        best.push(BestCustomer { customer_id, orders, revenue_cents: revenue, last_order });
    }
    Ok(best)
}

#[derive(Debug, Default)]
struct Differences(Vec<String>);

impl Differences {
    fn compare<T: PartialEq + Display>(&mut self, what: &str, reported: &T, truth: &T) {
        if reported != truth {
            self.0.push(format!("{what}: {reported} in the read models, {truth} in the file"));
        }
    }

    fn compare_months<T>(&mut self, what: &str, reported: &BTreeMap<String, T>, truth: &BTreeMap<String, T>)
    where
        T: Copy + Default + PartialEq + Display,
    {
        let mut months: Vec<_> = reported.keys().chain(truth.keys()).collect();
        months.sort_unstable();
        months.dedup();
        for month in months {
            let of = |sums: &BTreeMap<String, T>| sums.get(month).copied().unwrap_or_default();
            self.compare(&format!("{what} of {month}"), &of(reported), &of(truth));
        }
    }

    fn compare_best(&mut self, reported: &[BestCustomer], truth: &[(u32, Customer)]) {
        let reported: Vec<_> =
            reported.iter().map(|best| (&*best.customer_id, best.orders, best.revenue_cents)).collect();
        let ids: Vec<_> = truth.iter().map(|(id, _)| customer_id(*id)).collect();
        let truth: Vec<_> = ids.iter().zip(truth).map(|(id, (_, c))| (id.as_str(), c.orders, c.revenue)).collect();
        if reported != truth {
            self.0.push(format!("best customers: {reported:?} in the read models, {truth:?} in the file"));
        }
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Revenue by month")?;
        let months = self.revenue_by_month.iter();
        writeln!(f, "{}", bars(months.map(|(month, cents)| (month.as_str(), cents.0, cents.to_string()))))?;
        writeln!(f, "Best customers")?;
        for best in &self.best_customers {
            writeln!(f, "  {best}")?;
        }
        self.write_totals(f)
    }
}

impl Report {
    fn write_totals(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [
            ("customers", grouped(self.customers)),
            ("came back", percent(self.repeat_customers, self.customers)),
            ("orders", grouped(self.orders)),
            ("cancelled", grouped(self.cancelled)),
            ("units", grouped(self.units)),
            ("revenue", self.revenue_cents.to_string()),
            ("busiest day", shown(self.busiest_day.as_ref())),
            ("left in stock", grouped(self.stock_left)),
            ("welcome mails", grouped(self.notifications.welcome_mails)),
            ("receipts", grouped(self.notifications.receipts)),
            ("events", grouped(self.events)),
            ("written now", grouped(self.events_written)),
            ("seconds", format!("{:.2}", self.seconds)),
            ("events/s", format!("{:.0}", self.events_per_second)),
        ];
        writeln!(f)?;
        for (name, value) in rows {
            writeln!(f, "{name:<14} {value:>18}")?;
        }
        write!(f, "The read models agree with the file, to the cent.")
    }
}

impl Display for BestCustomer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { customer_id, orders, revenue_cents, last_order } = self;
        write!(f, "{customer_id} {revenue_cents:>12} in {orders:>3} orders, the last on {last_order}")
    }
}

fn shown(day: Option<&(String, u64)>) -> String {
    day.map_or_else(|| "none".into(), |(day, orders)| format!("{day} ({orders})"))
}

/// Formats a percentage with one decimal, rounded down.
fn percent(part: u64, whole: u64) -> String {
    let tenths = part * 1000 / whole.max(1);
    format!("{}.{} %", tenths / 10, tenths % 10)
}
