//! A long run, by a command of its own: `cargo test --release -p shmbc-tests --test stream -- --ignored soak --nocapture`.

use tokio::io::split;

use crate::conversation::{listen, speak};
use crate::pair::{KINDS, pair, run_for};

/// Bytes in all, both ways and all kinds together. The environment variable `SHMBC_SOAK_GB` asks for more.
const DEFAULT_GB: usize = 12;

#[test]
#[ignore = "moves 12 GB: run it by name"]
fn soak() {
    let gigabytes =
        std::env::var("SHMBC_SOAK_GB").map_or(DEFAULT_GB, |gb| gb.parse().expect("SHMBC_SOAK_GB is a number"));
    run_for(std::time::Duration::from_secs(3600), async {
        // Shared memory gets most of it: a tenth stays on TCP.
        let per_connection = 100_000_000;
        let mut moved = 0_usize;
        let mut seed = 0;
        while moved < gigabytes * 1_000_000_000 {
            for kind in KINDS {
                let (total, most) = match seed % 3 {
                    0 => (per_connection, 1_000_000),
                    1 => (per_connection / 2, 20_000),
                    _ => (per_connection / 20, 300),
                };
                let (a, b) = pair(kind).await;
                let ((a_read, a_write), (b_read, b_write)) = (split(a), split(b));
                let tasks = [
                    tokio::spawn(speak(a_write, seed, total, most)),
                    tokio::spawn(speak(b_write, seed + 1, total, most)),
                    tokio::spawn(listen(b_read, seed, total, most)),
                    tokio::spawn(listen(a_read, seed + 1, total, most)),
                ];
                for task in tasks {
                    task.await.unwrap();
                }
                moved += 2 * total;
                seed += 1;
            }
            println!("{:.1} GB", moved as f64 / 1e9);
        }
    });
}
