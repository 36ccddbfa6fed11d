//! Echo with mio: one thread, one poll, any number of connections, and the line that puts it on shared memory.
//!
//! `cargo run --example mio`, or `-- server 0.0.0.0:7000` here and `-- client HOST:7000` there.
//!
//! ```diff
//! -use mio::net::{TcpListener, TcpStream};
//! +use shmbc::mio::{ShmListener as TcpListener, ShmStream as TcpStream};
//! ```

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use mio::{Events, Interest, Poll, Token};
use shmbc::mio::{ShmListener as TcpListener, ShmStream as TcpStream};
use shmbc_examples::{Failure, is_settled, run_threads};

/// The listener; connections are counted from the next on.
const LISTENER: Token = Token(0);

const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

/// A connection and what is still to be echoed.
struct Echo {
    stream: TcpStream,
    owed: Vec<u8>,
}

impl Echo {
    /// Reads and writes as long as anything moves. False when the other end has gone.
    fn go_on(&mut self) -> io::Result<bool> {
        let mut buf = vec![0; 64 << 10];
        loop {
            while !self.owed.is_empty() {
                match self.stream.write(&self.owed) {
                    Ok(n) => drop(self.owed.drain(..n)),
                    // The rest when there is room again, and no more is read until then.
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                    Err(error) => return Err(error),
                }
            }
            match self.stream.read(&mut buf) {
                Ok(0) => return Ok(false),
                Ok(n) => self.owed.extend_from_slice(&buf[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
        }
    }
}

fn server(listener: std::net::TcpListener) -> Result<(), Failure> {
    listener.set_nonblocking(true)?;
    let mut listener = TcpListener::from_std(listener);
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let (mut echoes, mut next) = (HashMap::new(), LISTENER.0);
    let mut events = Events::with_capacity(256);
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                // Edge-triggered: take all that wait.
                while let Ok((mut stream, _)) = listener.accept() {
                    next += 1;
                    poll.registry().register(&mut stream, Token(next), BOTH)?;
                    echoes.insert(Token(next), Echo { stream, owed: Vec::new() });
                }
            } else if let Some(echo) = echoes.get_mut(&event.token())
                && !echo.go_on().unwrap_or(false)
            {
                println!("server: a client has gone; its bytes went by {}", echo.stream.path());
                echoes.remove(&event.token());
            }
        }
    }
}

fn client(address: SocketAddr) -> Result<(), Failure> {
    let mut poll = Poll::new()?;
    let mut stream = TcpStream::connect(address)?;
    poll.registry().register(&mut stream, Token(0), BOTH)?;
    let mut events = Events::with_capacity(16);
    let (mut sent, mut answer, mut echoes) = (false, Vec::new(), 0);
    loop {
        poll.poll(&mut events, None)?;
        // As long as anything moves: events come once.
        loop {
            if !sent {
                match stream.write(b"hello") {
                    Ok(5) => sent = true,
                    Ok(n) => return Err(format!("wrote {n} of 5 bytes").into()),
                    // Not connected yet, mostly.
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            let mut buf = [0; 5];
            match stream.read(&mut buf) {
                Ok(0) => return Err("the server has gone".into()),
                Ok(n) => answer.extend_from_slice(&buf[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
            if answer.len() < 5 {
                continue;
            }
            assert_eq!(answer, b"hello");
            (sent, echoes) = (false, echoes + 1);
            answer.clear();
            let path = stream.path();
            if echoes == 1 || is_settled(&path) {
                println!("client: echo {echoes} by {path}");
            }
            if is_settled(&path) {
                return Ok(());
            }
        }
    }
}

fn main() -> Result<(), Failure> {
    run_threads(server, client)
}
