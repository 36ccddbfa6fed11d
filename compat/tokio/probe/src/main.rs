//! Uses tokio in the ways that a package of another name could break, and prints whose types it got.

// As old programs do.
#[macro_use]
extern crate tokio;

mod names;

use std::any::type_name;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

tokio::task_local! {
    static WHO: &'static str;
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> std::io::Result<()> {
    for (name, whose) in [
        ("TcpListener", type_name::<TcpListener>()),
        ("TcpSocket", type_name::<TcpSocket>()),
        ("TcpStream", type_name::<TcpStream>()),
        ("tcp::OwnedReadHalf", type_name::<tokio::net::tcp::OwnedReadHalf>()),
        ("tcp::OwnedWriteHalf", type_name::<tokio::net::tcp::OwnedWriteHalf>()),
        ("tcp::ReadHalf", type_name::<tokio::net::tcp::ReadHalf<'static>>()),
        ("tcp::WriteHalf", type_name::<tokio::net::tcp::WriteHalf<'static>>()),
        ("tcp::ReuniteError", type_name::<tokio::net::tcp::ReuniteError>()),
        ("UdpSocket", type_name::<tokio::net::UdpSocket>()),
        ("UnixStream", type_name::<tokio::net::UnixStream>()),
    ] {
        println!("{name}: {}", whose.split("::").next().unwrap_or(whose));
    }
    let (echoed, by_name) = WHO.scope("me", async { tokio::join!(echo(), async { WHO.get() }) }).await;
    println!("{} by {by_name}", echoed?);
    println!("{}", macros().await);
    Ok(())
}

async fn echo() -> std::io::Result<String> {
    let socket = TcpSocket::new_v4()?;
    socket.bind("127.0.0.1:0".parse().expect("an address"))?;
    let listener: TcpListener = socket.listen(8)?;
    let server = async {
        let (mut stream, _): (TcpStream, _) = listener.accept().await?;
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await
    };
    let client = async {
        let mut stream: TcpStream = TcpSocket::new_v4()?.connect(listener.local_addr()?).await?;
        stream.write_all(b"echoed").await?;
        stream.shutdown().await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        std::io::Result::Ok(text)
    };
    let (_, text) = tokio::try_join!(server, client)?;
    Ok(text)
}

async fn macros() -> &'static str {
    let slow = tokio::time::sleep(Duration::from_secs(600));
    tokio::pin!(slow);
    // Without a path, by way of `macro_use`.
    select! {
        biased;
        () = &mut slow => "slow",
        Some(()) = async { None } => "disabled",
        () = tokio::task::yield_now() => "selected",
        else => "none",
    }
}

#[cfg(test)]
mod tests {
    #[tokio::test(start_paused = true)]
    async fn time_when_paused_passes_at_once() {
        tokio::time::sleep(std::time::Duration::from_secs(3600)).await;
        assert_eq!(super::macros().await, "selected");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn bytes_when_echoed_come_back() {
        assert_eq!(super::echo().await.unwrap(), "echoed");
    }
}
