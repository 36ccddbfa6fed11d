//! Echo over TCP, as in tokio's own documentation, and the lines that put it on shared memory.
//!
//! `cargo run --example echo`, or `-- server 0.0.0.0:7000` here and `-- client HOST:7000` there.
//!
//! ```diff
//! -use tokio::net::{TcpListener, TcpStream};
//! +use shmbc_tokio::{ShmListener, ShmStream};
//! -let listener = TcpListener::bind("0.0.0.0:7000").await?;
//! +let listener = ShmListener::bind("0.0.0.0:7000").await?;
//! -let mut stream = TcpStream::connect("server:7000").await?;
//! +let mut stream = ShmStream::connect("server:7000").await?;
//! ```
//!
//! With `use shmbc_tokio::net::{TcpListener, TcpStream};` it is the one line.

use shmbc_examples::{Failure, is_settled, run};
use shmbc_tokio::{ShmListener, ShmStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn server(listener: ShmListener) -> Result<(), Failure> {
    loop {
        let (mut stream, peer) = listener.accept().await?;
        tokio::spawn(async move {
            let mut buf = vec![0; 64 << 10];
            while let Ok(n @ 1..) = stream.read(&mut buf).await {
                if stream.write_all(&buf[..n]).await.is_err() {
                    break;
                }
            }
            println!("server: {peer} has gone; its bytes went by {}", stream.path());
        });
    }
}

async fn client(address: String) -> Result<(), Failure> {
    let mut stream = ShmStream::connect(address).await?;
    let mut answer = [0; 5];
    for n in 1.. {
        stream.write_all(b"hello").await?;
        stream.read_exact(&mut answer).await?;
        assert_eq!(&answer, b"hello");
        let path = stream.path();
        if n == 1 || is_settled(&path) {
            println!("client: echo {n} by {path}");
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
