//! Echo with threads that wait, as with the standard library, and the line that puts it on shared memory.
//!
//! `cargo run --example blocking`, or `-- server 0.0.0.0:7000` here and `-- client HOST:7000` there.
//!
//! ```diff
//! -use std::net::{TcpListener, TcpStream};
//! +use shmbc::blocking::{ShmListener as TcpListener, ShmStream as TcpStream};
//! ```

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::thread;

use shmbc::blocking::{ShmListener as TcpListener, ShmStream as TcpStream};
use shmbc_examples::{Failure, is_settled, run_threads};

fn server(listener: std::net::TcpListener) -> Result<(), Failure> {
    let listener = TcpListener::from_std(listener);
    loop {
        let (mut stream, peer) = listener.accept()?;
        thread::spawn(move || {
            let mut buf = vec![0; 64 << 10];
            while let Ok(n @ 1..) = stream.read(&mut buf) {
                if stream.write_all(&buf[..n]).is_err() {
                    break;
                }
            }
            println!("server: {peer} has gone; its bytes went by {}", stream.path());
        });
    }
}

fn client(address: SocketAddr) -> Result<(), Failure> {
    let mut stream = TcpStream::connect(address)?;
    let mut answer = [0; 5];
    for n in 1.. {
        stream.write_all(b"hello")?;
        stream.read_exact(&mut answer)?;
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

fn main() -> Result<(), Failure> {
    run_threads(server, client)
}
