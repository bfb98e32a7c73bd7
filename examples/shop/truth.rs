//! The expected sums, computed directly from the file before anything is written.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use crate::domain::Cents;
use crate::orders_file::{BadFile, BadLine, OrdersFile, PRODUCTS, Sale, Unpaid};
use crate::share::Share;

/// Initial stock of each product.
pub const INITIAL_STOCK: u32 = 2_000;

/// Pieces per delivery when a product is out of stock.
pub const DELIVERY_SIZE: u32 = 1_000;

/// Sums over all sales, by customer, month, day and product.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Truth {
    pub orders: u64,
    /// Number of unpaid orders. They count in no other sum, but their customers do.
    pub cancelled: u64,
    pub units: u64,
    pub revenue: Cents,
    pub months: BTreeMap<String, Month>,
    pub customers: HashMap<u32, Customer>,
    pub days: BTreeMap<NaiveDate, u64>,
    /// Units of each product.
    pub sold: BTreeMap<u64, u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Month {
    pub units: u64,
    pub revenue: Cents,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, retell::Shape)]
pub struct Customer {
    pub orders: u64,
    pub revenue: Cents,
}

impl Truth {
    /// Reads the whole file. Fails at the first malformed line.
    pub fn read(path: &Path, unpaid: Unpaid) -> Result<Self, BadFile> {
        let mut file = OrdersFile::open(path, unpaid)?;
        let mut truth = Self::default();
        while let Some(sale) = file.next_sale()? {
            truth.add(&sale).ok_or_else(|| file.malformed(BadLine::Sum))?;
        }
        Ok(truth)
    }

    /// Adds a sale; `None` if a sum overflows. No other sum can exceed the two that are checked.
    fn add(&mut self, sale: &Sale) -> Option<()> {
        let units = u64::from(sale.quantity);
        let customer = self.customers.entry(sale.customer).or_default();
        if !sale.is_paid {
            self.cancelled += 1;
            return Some(());
        }
        customer.orders += 1;
        self.orders += 1;
        self.units = self.units.checked_add(units)?;
        self.revenue = self.revenue.plus(sale.amount).filter(|sum| i64::try_from(sum.0).is_ok())?;
        let month = self.months.entry(month_of(sale.date)).or_default();
        month.units += units;
        month.revenue.0 += sale.amount.0;
        customer.revenue.0 += sale.amount.0;
        *self.days.entry(sale.date).or_default() += 1;
        *self.sold.entry(sale.product()).or_default() += units;
        Some(())
    }

    /// Returns the number of orders in one process's share of the customers.
    pub fn orders_of(&self, share: Share) -> u64 {
        self.customers.iter().filter(|(id, _)| share.has(**id)).map(|(_, customer)| customer.orders).sum()
    }

    /// Returns the customers who spent most, equals in order of their ids.
    pub fn best_customers(&self, count: usize) -> Vec<(u32, Customer)> {
        let mut customers: Vec<_> = self.customers.iter().map(|(id, customer)| (*id, *customer)).collect();
        customers.sort_unstable_by_key(|(id, customer)| (std::cmp::Reverse(customer.revenue), *id));
        customers.truncate(count);
        customers
    }

    /// Returns the day with the most orders, the earliest of equals, and the number of its orders.
    pub fn busiest_day(&self) -> Option<(String, u64)> {
        let busiest = self.days.iter().max_by_key(|(day, orders)| (**orders, std::cmp::Reverse(**day)));
        busiest.map(|(day, orders)| (day.to_string(), *orders))
    }

    /// Returns the number of customers with more than one order.
    pub fn repeat_customers(&self) -> u64 {
        self.customers.values().filter(|customer| customer.orders > 1).count() as u64
    }

    /// Returns the number of deliveries of all products, including the initial stock. A delivery arrives only if the stock is too small for
    /// an order, so this number suffices in any order of the sales. Orders that are cancelled later may cause more.
    pub fn fewest_deliveries(&self) -> u64 {
        self.sold.values().map(|sold| later_deliveries(*sold)).sum::<u64>() + PRODUCTS
    }

    /// Returns the remaining pieces of all products after `deliveries` deliveries.
    pub fn stock_left(&self, deliveries: u64) -> u64 {
        let later = deliveries.saturating_sub(PRODUCTS);
        (PRODUCTS * u64::from(INITIAL_STOCK) + later * u64::from(DELIVERY_SIZE)).saturating_sub(self.units)
    }

    /// Returns the number of events once everything is sold and `deliveries` deliveries have arrived. A paid order has six: created,
    /// deducted, paid, confirmed, and two steps of its process. An unpaid order has seven: created, deducted, cancelled, released, and
    /// three steps.
    pub fn events(&self, deliveries: u64) -> u64 {
        self.customers.len() as u64 + 6 * self.orders + 7 * self.cancelled + deliveries
    }
}

fn later_deliveries(sold: u64) -> u64 {
    sold.saturating_sub(u64::from(INITIAL_STOCK)).div_ceil(u64::from(DELIVERY_SIZE))
}

/// Formats a month as `1997-01`.
pub fn month_of(date: NaiveDate) -> String {
    date.format("%Y-%m").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sale(line: u64, customer: u32, quantity: u32, cents: u64) -> Sale {
        Sale { line, customer, date: NaiveDate::default(), quantity, amount: Cents(cents), is_paid: true }
    }

    #[test]
    fn customers_are_counted_once_and_ranked_by_revenue() {
        let mut truth = Truth::default();
        for (line, customer, cents) in [(2, 1, 500), (3, 1, 100), (4, 2, 700), (5, 3, 600)] {
            assert_eq!(truth.add(&sale(line, customer, 1, cents)), Some(()));
        }
        let best: Vec<_> = truth.best_customers(2).into_iter().map(|(id, _)| id).collect();
        assert_eq!((truth.customers.len(), truth.repeat_customers(), best), (3, 1, vec![2, 1]));
    }

    #[test]
    fn unpaid_order_counts_in_no_sum_but_its_customer_does() {
        let mut truth = Truth::default();
        assert_eq!(truth.add(&Sale { is_paid: false, ..sale(2, 1, 3, 500) }), Some(()));
        assert_eq!((truth.orders, truth.cancelled, truth.units, truth.customers.len()), (0, 1, 0, 1));
        assert_eq!((truth.events(PRODUCTS), truth.stock_left(PRODUCTS)), (108, 200_000));
    }

    #[test]
    fn deliveries_match_the_demand() {
        assert_eq!([0, 2_000, 2_001, 3_000, 3_001].map(later_deliveries), [0, 0, 1, 1, 2]);
    }

    #[test]
    fn overflowing_sum_is_detected() {
        let mut truth = Truth { revenue: Cents(u64::MAX / 2), ..Truth::default() };
        assert_eq!(truth.add(&sale(2, 1, 1, 1)), None);
    }
}
