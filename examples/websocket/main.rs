//! WebSockets over the stream, with tokio-tungstenite, which takes any stream: nothing is needed for it.
//!
//! `cargo run --example websocket`, or `-- server 0.0.0.0:9000` here and `-- client HOST:9000` there.

use futures_util::{SinkExt, StreamExt};
use shmbc_examples::{Failure, is_settled, run};
use shmbc_tokio::{ShmListener, ShmStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{accept_async, client_async};

async fn server(listener: ShmListener) -> Result<(), Failure> {
    loop {
        let (stream, from) = listener.accept().await?;
        tokio::spawn(async move {
            let mut socket = match accept_async(stream).await {
                Ok(socket) => socket,
                Err(error) => return eprintln!("server: {from}: {error}"),
            };
            while let Some(Ok(message)) = socket.next().await {
                if message.is_text() && socket.send(message).await.is_err() {
                    break;
                }
            }
        });
    }
}

async fn client(address: String) -> Result<(), Failure> {
    let stream = ShmStream::connect(&address).await?;
    let (mut socket, _) = client_async(format!("ws://{address}/"), stream).await?;
    for n in 1.. {
        socket.send(Message::text(format!("message {n}"))).await?;
        let answer = socket.next().await.ok_or("the server has gone")??;
        let path = socket.get_ref().path();
        if n == 1 || is_settled(&path) {
            println!("client: {:?} back by {path}", answer.to_text()?);
        }
        if is_settled(&path) {
            break;
        }
    }
    socket.close(None).await?;
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    run(server, client).await
}
