//! The sizes of tables, for `retell status --sizes`.

use retell::operate::{RowCount, StoreSize, TableSize};

use crate::failure::Failure;
use crate::out::Answer;
use crate::session::Session;

/// Adds the sizes to an answer.
pub(super) async fn add(session: &Session, answer: &mut Answer) -> Result<(), Failure> {
    let sizes = session.call("read the sizes", session.stores.models.sizes(&*session.stores.log)).await?;
    let stores = [("log", &sizes.log), ("read models", &sizes.models)];
    let known = || stores.iter().filter_map(|(store, size)| size.as_ref().map(|size| (*store, size)));
    answer.page.line("");
    let rows = known().flat_map(|(store, size)| size.tables.iter().map(move |table| row(store, table)));
    answer.page.table(&["STORE", "TABLE", "ROWS", "SIZE"], rows.chain(known().filter_map(total)));
    answer.data["sizes"] = serde_json::to_value(&sizes)?;
    Ok(())
}

fn row(store: &str, table: &TableSize) -> Vec<String> {
    let rows = match table.count {
        RowCount::Exact => table.rows.to_string(),
        RowCount::AtLeast => format!("at least {}", table.rows),
        _ => format!("about {}", table.rows),
    };
    let bytes = table.bytes.map_or_else(|| "-".to_owned(), size);
    vec![store.to_owned(), table.table.clone(), rows, bytes]
}

fn total((store, store_size): (&str, &StoreSize)) -> Option<Vec<String>> {
    Some(vec![store.to_owned(), "all".to_owned(), "-".to_owned(), size(store_size.bytes?)])
}

/// Returns a number of bytes in the largest unit that fits.
fn size(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} B"),
        10_240..10_485_760 => format!("{} KiB", bytes >> 10),
        10_485_760..10_737_418_240 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_largest_unit_that_fits() {
        let sizes = [0, 10_239, 10_240, 10_485_759, 10_485_760, 10_737_418_239, 10_737_418_240].map(size);
        assert_eq!(sizes, ["0 B", "10239 B", "10 KiB", "10239 KiB", "10 MiB", "10239 MiB", "10 GiB"]);
    }
}
