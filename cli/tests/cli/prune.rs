//! Golden output of `retell prune`.

use tempfile::TempDir;

use crate::databases::{Database, Place};
use crate::golden::assert_golden;
use crate::tool::Tool;

const COMMANDS: &[&str] = &[
    "prune keys --older-than 1h --yes",
    "prune keys --older-than 30",
    "prune parked --older-than 30d",
    "prune keys --older-than 7d --dry-run",
    "prune keys --older-than 7d --as ada",
    "prune keys --older-than 7d --as ada --yes",
    "prune inbox --older-than 0s --dry-run",
    "prune inbox --older-than 0s --limit 2 --as ada --reason weekly --yes",
    "prune inbox --older-than 0s --as ada --yes",
    "audit -n 4",
];

/// Plants two keys, of which one is old, and the inbox of the reaction `orders`, whose checkpoint is at 6.
async fn plant(place: &Place) {
    let ids = |quote: &dyn Fn(u64) -> String| {
        (1..=6).map(|number| format!("('orders', {})", quote(number))).collect::<Vec<_>>().join(", ")
    };
    match place {
        Place::Sqlite(path) => {
            let inbox = ids(&|number| format!("X'{number:032x}'"));
            let models = Place::Sqlite(path.with_extension("models.db"));
            let sql = format!(
                "INSERT INTO retell_reactions VALUES ('orders', 0, NULL); INSERT INTO retell_inbox VALUES {inbox}"
            );
            models.run(&sql).await;
            place
                .run(
                    "DROP TRIGGER retell_events_no_update; UPDATE retell_events SET recorded_at = 0 WHERE position <= 2;
                     INSERT INTO retell_keys VALUES ('old', 1, X'00', '[]'), ('young', 3, X'00', '[]')",
                )
                .await;
        }
        Place::Postgres(_) => {
            let inbox = ids(&|number| format!("'{number:032x}'"));
            let sql = format!(
                "INSERT INTO retell.reactions VALUES ('orders', 0, NULL); INSERT INTO retell.inbox VALUES {inbox};
                 ALTER TABLE retell.events DISABLE TRIGGER USER;
                 UPDATE retell.log SET recorded_at = '2000-01-01' WHERE first_position <= 2;
                 UPDATE retell.events e SET recorded_at = l.recorded_at FROM retell.log l WHERE l.commit_id = e.commit_id;
                 INSERT INTO retell.keys SELECT 'old', commit_id, 1, 1, '' FROM retell.log WHERE first_position = 1;
                 INSERT INTO retell.keys SELECT 'young', commit_id, 1, 1, '' FROM retell.log WHERE first_position = 3"
            );
            place.run(&sql).await;
        }
        Place::MySql(_) => {
            let inbox = ids(&|number| format!("X'{number:032x}'"));
            let sql = format!(
                "INSERT INTO retell_reactions VALUES ('orders', 0, NULL); INSERT INTO retell_inbox VALUES {inbox};
                 DROP TRIGGER retell_events_no_update;
                 UPDATE retell_events e JOIN retell_log l ON l.commit_id = e.commit_id SET e.recorded_at = '2000-01-01'
                 WHERE l.first_position <= 2;
                 INSERT INTO retell_keys SELECT 'old', commit_id, 1, '', '[]' FROM retell_log WHERE first_position = 1;
                 INSERT INTO retell_keys SELECT 'young', commit_id, 1, '', '[]' FROM retell_log WHERE first_position = 3"
            );
            place.run(&sql).await;
        }
    }
}

pub(crate) async fn prune_prints_its_golden_output(database: &Database) {
    crate::planted(database).await;
    plant(&database.place).await;
    let folder = TempDir::new().unwrap();
    let tool = Tool::of(&database.place).in_folder(folder.path());
    assert_golden(&tool, &database.place, &[("prune", COMMANDS)]);
}

/// Only PostgreSQL keeps rows of commits that have positions.
pub(crate) async fn rows_of_commits_are_pruned(database: &Database) {
    crate::planted(database).await;
    let tool = Tool::of(&database.place);
    let prune = || {
        let ran = tool.run(["prune", "commits", "--older-than", "0s", "--yes", "--json"]);
        let answer: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        (ran.exit, answer["data"]["pruned"]["parts"][0]["rows"].as_u64())
    };
    if let Place::Postgres(_) = &database.place {
        assert_eq!(prune(), (0, Some(12)));
        assert_eq!(prune(), (0, Some(0)));
        assert_eq!(tool.run(["tail", "-n", "1"]).exit, 0);
    } else {
        assert_eq!(prune(), (2, None));
    }
}
