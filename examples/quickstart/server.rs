//! The receiving process: takes one connection from each of three listeners, answers pings, and reads batches of files
//! into memory; once the last byte is there and the clock has been read, it computes the digest of every file.

use std::error::Error;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use shmbc_tokio::ShmListener;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixListener;

use crate::wire::{Answer, Command, PIECE, PING, cpu_ns, digests, now_ns};

/// Where the server listens: its one line of output.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Addresses {
    /// Streams that are upgraded.
    pub(crate) shm: std::net::SocketAddr,
    /// The same types, kept on TCP.
    pub(crate) tcp: std::net::SocketAddr,
    /// The Unix socket.
    pub(crate) uds: std::path::PathBuf,
}

/// Serves until its standard input ends, which it does when the parent is gone, however it went.
pub(crate) async fn run(dir: &Path) -> Result<(), Box<dyn Error>> {
    let shm = ShmListener::bind("127.0.0.1:0").await?;
    let tcp = ShmListener::bind("127.0.0.1:0").await?;
    let path = dir.join("server.sock");
    let uds = UnixListener::bind(&path)?;
    let addresses = Addresses { shm: shm.local_addr()?, tcp: tcp.local_addr()?, uds: path };
    println!("{}", serde_json::to_string(&addresses)?);
    io::stdout().flush()?;

    let accept_shm = async {
        let (mut stream, _) = shm.accept().await?;
        stream.set_nodelay(true)?;
        // The client waits likewise, and says why when it fails.
        drop(stream.upgraded().await);
        serve(&mut stream).await
    };
    let accept_tcp = async {
        let (mut stream, _) = tcp.accept().await?;
        stream.set_acceleration(false);
        stream.set_nodelay(true)?;
        serve(&mut stream).await
    };
    let accept_uds = async {
        let (mut stream, _) = uds.accept().await?;
        serve(&mut stream).await
    };
    let parent_gone = async { tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await };
    tokio::select! {
        served = async { tokio::try_join!(accept_shm, accept_tcp, accept_uds) } => drop(served?),
        _ = parent_gone => {}
    }
    Ok(())
}

async fn serve(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    let mut memory = Vec::new();
    while let Some(command) = Command::receive(stream).await? {
        match command {
            Command::Ping(count) => {
                let mut ping = [0; PING];
                for _ in 0..count {
                    stream.read_exact(&mut ping).await?;
                    stream.write_all(&ping).await?;
                }
            }
            Command::Batch(len) => {
                // Touched at the first batch, which is not measured.
                memory.resize(usize::try_from(len).unwrap_or(usize::MAX), 0);
                receive_batch(stream, &mut memory).await?.send(stream).await?;
            }
        }
    }
    Ok(())
}

async fn receive_batch(stream: &mut (impl AsyncRead + Unpin), memory: &mut [u8]) -> io::Result<Answer> {
    let cpu_before = cpu_ns();
    for piece in memory.chunks_mut(PIECE) {
        stream.read_exact(piece).await?;
    }
    let read_at_ns = now_ns();
    let cpu_ns = cpu_ns() - cpu_before;
    Ok(Answer { read_at_ns, cpu_ns, digests: digests(memory)? })
}
