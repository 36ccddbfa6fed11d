//! A long run. As one of the tests it is a short one; by a command of its own it moves as many gigabytes as it is told:
//! `SHMBC_SOAK_GB=12 cargo test --release -p shmbc-tests --test stream soak -- --nocapture`.

use tokio::io::split;

use crate::conversation::{listen, speak};
use crate::pair::{KINDS, pair, run_for};

/// Gigabytes in all, both ways and all kinds together, where `SHMBC_SOAK_GB` does not say.
const DEFAULT_GB: f64 = 0.1;

#[test]
fn soak_when_it_moves_gigabytes_every_way_finds_every_byte_in_place() {
    let asked = std::env::var("SHMBC_SOAK_GB").ok();
    let gigabytes = asked.as_ref().map_or(DEFAULT_GB, |gb| gb.parse().expect("SHMBC_SOAK_GB is a number"));
    let bytes = (gigabytes * 1e9) as usize;
    // One round is half of it at most, so that a short run still goes every way.
    let per_connection = (bytes / 60).min(100_000_000);
    run_for(std::time::Duration::from_secs(3600), async {
        let mut moved = 0_usize;
        let mut seed = 0_u64;
        while moved < bytes {
            for kind in KINDS {
                let (total, most) = match seed / KINDS.len() as u64 % 3 {
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
