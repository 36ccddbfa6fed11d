//! A protocol of lines with tokio-util's codecs, which take any stream: nothing is needed for it.
//!
//! `cargo run --example codec`, or `-- server 0.0.0.0:7000` here and `-- client HOST:7000` there. The server adds
//! numbers; it takes its connections from a stream of them, `ShmListenerStream`, as tokio-stream has for TCP.

use futures_util::{SinkExt, StreamExt};
use shmbc_examples::{Failure, is_settled, run};
use shmbc_tokio::{ShmListener, ShmListenerStream, ShmStream};
use tokio_util::codec::{Framed, LinesCodec};

/// Longest line, so that nobody can make the other end keep an endless one.
const LINE_MAX: usize = 1024;

async fn server(listener: ShmListener) -> Result<(), Failure> {
    let mut connections = ShmListenerStream::new(listener);
    while let Some(stream) = connections.next().await {
        let mut lines = Framed::new(stream?, LinesCodec::new_with_max_length(LINE_MAX));
        tokio::spawn(async move {
            while let Some(Ok(line)) = lines.next().await {
                let sum: i64 = line.split_whitespace().filter_map(|word| word.parse::<i64>().ok()).sum();
                if lines.send(sum.to_string()).await.is_err() {
                    break;
                }
            }
        });
    }
    Ok(())
}

async fn client(address: String) -> Result<(), Failure> {
    let stream = ShmStream::connect(address).await?;
    let mut lines = Framed::new(stream, LinesCodec::new_with_max_length(LINE_MAX));
    for n in 1.. {
        lines.send(format!("{n} 40")).await?;
        let sum = lines.next().await.ok_or("the server has gone")??;
        let path = lines.get_ref().path();
        if n == 1 || is_settled(&path) {
            println!("client: {n} and 40 are {sum}, by {path}");
        }
        if is_settled(&path) {
            break;
        }
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    run(server, client).await
}
