//! An inline projection of SQLite whose log alone went back.

use retell::inline::inline;
use retell::prelude::*;
use retell::view::ViewProjection;

use super::positions::{IN_LOG_ORDER, Part, append, sqlite};

/// The log has grown to the position of the projection again. The append compares the event there.
#[tokio::test]
async fn an_inline_append_to_another_history_is_refused() {
    let site = sqlite().await;
    let log = inline(site.store.clone(), ViewProjection::new(IN_LOG_ORDER, site.models.clone())).await.unwrap();
    append(&log, 0..20).await;
    Part::Log.dump(&site.database.place).await;
    append(&log, 20..27).await;
    Part::Log.restore(&site.database.place).await;
    // Without the projection.
    append(&site.store, 100..107).await;
    let filled = super::positions::Filled(107);
    let refused = log.append_events(("shelf", "0"), ExpectedVersion::Any, [filled]).await.unwrap_err();
    assert!(refused.is_history_changed(), "{refused}");
    assert_eq!(site.store.head().await.unwrap(), Position::new(27), "nothing of it was written");
}
