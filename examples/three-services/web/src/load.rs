//! A load for the page, one request after the other over one connection, and how long they took.

use std::error::Error;
use std::io;
use std::time::{Duration, Instant};

/// Gives the API an item.
pub(crate) async fn put(url: &str, text: &str) -> Result<(), Box<dyn Error>> {
    let answer = reqwest::Client::new().put(url).body(text.to_owned()).send().await?.error_for_status()?;
    print!("{}", answer.text().await?);
    Ok(())
}

/// Asks `requests` times. What it got goes to standard output, how fast to standard error. Then it keeps its connection
/// until its standard input ends, so that one can look at it.
pub(crate) async fn drive(url: &str, requests: usize) -> Result<(), Box<dyn Error>> {
    let client = reqwest::Client::new();
    let mut last = String::new();
    let mut took = Vec::with_capacity(requests);
    let began = Instant::now();
    for _ in 0..requests {
        let asked = Instant::now();
        last = client.get(url).send().await?.error_for_status()?.text().await?;
        took.push(asked.elapsed());
    }
    let all = began.elapsed();
    println!("{requests} answers, the last:\n{}", last.trim_end());
    took.sort_unstable();
    let at = |share: f64| micros(took[((took.len() - 1) as f64 * share) as usize]);
    if requests > 0 {
        let a_second = requests as f64 / all.as_secs_f64();
        eprintln!(r#"{{"requests_per_second":{a_second:.0},"p50_us":{},"p99_us":{}}}"#, at(0.5), at(0.99));
    }
    tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink())).await??;
    Ok(())
}

fn micros(time: Duration) -> u128 {
    time.as_micros()
}
